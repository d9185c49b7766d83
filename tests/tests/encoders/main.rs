//! Encoders and players that users own, at the versions that `tests/encoders` pins, against the real `headwater`: what each
//! of them sends arrives, how each of them ends is understood, and what its user sees when it is refused.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

/// A module for each encoder, with these tests of it.
macro_rules! of_every_encoder {
    ($($test:ident),+) => {
        of_encoders_with_passwords! { $($test),+ }
        of_encoder! { librtmp Librtmp $($test)+ }
    };
}

/// As `of_every_encoder`, without the one that cannot log in.
macro_rules! of_encoders_with_passwords {
    ($($test:ident),+) => {
        of_encoder! { ffmpeg_5 Ffmpeg5 $($test)+ }
        of_encoder! { ffmpeg_9 Ffmpeg9 $($test)+ }
        of_encoder! { gstreamer Rtmp2Sink $($test)+ }
        of_encoder! { obs Obs $($test)+ }
        of_encoder! { pyav PyAv $($test)+ }
    };
}

macro_rules! of_encoder {
    ($name:ident $client:ident $($test:ident)+) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(tests::clients::Client::$client).await;
                }
            )+
        }
    };
}

mod certificates;
mod codecs;
mod endings;
mod passwords;
mod players;
mod publishing;
mod timestamps;
