//! Values as people write them: each parses itself and says what it should have been.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{
        Error, IntoDeserializer as _, SeqAccess, Unexpected, Visitor, value::SeqAccessDeserializer,
    },
};

use super::check::Check;

/// Makes a scalar that is written as text; `parse` gives nothing where it is not one.
macro_rules! text_scalar {
    ($(#[$doc:meta])* $name:ident($value:ty), $what:literal, $parse:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub(super) struct $name(pub(super) $value);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let parse: fn(&str) -> Option<$value> = $parse;
                parse(text.trim())
                    .map(Self)
                    .ok_or_else(|| D::Error::custom(format_args!("{text:?} is not {}", $what)))
            }
        }
    };
}

text_scalar!(
    /// Where to listen.
    Address(SocketAddr),
    "an address (such as 127.0.0.1:8443)",
    |text| text.parse().ok()
);
text_scalar!(
    /// Where to connect.
    HostPort(String),
    "a host and a port (such as control:7445)",
    |text| {
        let (host, port) = text.rsplit_once(':')?;
        let host_only = !host.is_empty() && !host.contains(['/', '@', ' ']);
        (host_only && port.parse::<u16>().is_ok_and(|port| port > 0)).then(|| text.to_owned())
    }
);
text_scalar!(
    /// A gRPC server.
    Url(String),
    "a URL (such as http://collector:4317)",
    |text| {
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let valid = !authority.is_empty() && !authority.contains(['/', '@', '?', '#', ' ']);
        (valid && text.parse::<http::Uri>().is_ok()).then(|| text.to_owned())
    }
);
text_scalar!(
    /// What is called over the guarded client.
    HttpsUrl(runtime::egress::HttpsUrl),
    "a URL such as https://platform.example/path",
    |text| text.parse().ok()
);
text_scalar!(
    /// An origin's name.
    OriginName(registry::OriginName),
    "a name (letters, digits, and . _ : -)",
    |text| registry::OriginName::new(text).ok()
);
text_scalar!(
    /// A network, or one address of it.
    Network(IpNet),
    "a network (such as 10.0.0.0/8)",
    |text| {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse().ok().or_else(address)
    }
);
text_scalar!(
    /// A length of time; none at all is one too.
    Time(Duration),
    "a length of time (such as 15s or 250ms)",
    |text| time_from(text, Duration::ZERO)
);

text_scalar!(
    /// The time between one and the next of what happens again and again.
    Period(Duration),
    "a length of time of at least 1ms (such as 15s or 250ms)",
    |text| time_from(text, Duration::from_millis(1))
);

text_scalar!(
    /// A length of time that the kernel counts in seconds.
    Seconds(Duration),
    "a length of time of at least 1s (such as 15s)",
    |text| time_from(text, Duration::from_secs(1))
);

/// Beyond any sense, and far from where clocks overflow.
const TIME_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn time_from(text: &str, min: Duration) -> Option<Duration> {
    let time = humantime_serde::re::humantime::parse_duration(text).ok()?;
    (min..=TIME_MAX).contains(&time).then_some(time)
}

/// On or off.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Switch(pub(super) bool);

/// A number of things, above 0.
#[derive(Clone, Debug)]
pub(super) struct Count<T>(pub(super) T);

impl<'de, T: TryFrom<u64>> Deserialize<'de> for Count<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        let value = T::try_from(number).ok().filter(|_fits| number > 0);
        value.map(Self).ok_or_else(|| {
            D::Error::custom(format_args!(
                "{number} is not a number in the range allowed"
            ))
        })
    }
}

/// A share of something, from 0 to 1.
#[derive(Clone, Debug)]
pub(super) struct Ratio(pub(super) f64);

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ratio = f64::deserialize(deserializer)?;
        if (0.0..=1.0).contains(&ratio) {
            Ok(Self(ratio))
        } else {
            Err(D::Error::custom(format_args!(
                "{ratio} is not between 0 and 1"
            )))
        }
    }
}

/// A number of bytes, above 0: a number, or with a unit (`64KiB`, `16 MiB`, `2GiB`).
#[derive(Clone, Debug)]
pub(super) struct Bytes<T>(pub(super) T);

impl<'de, T: TryFrom<u64>> Deserialize<'de> for Bytes<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserializer.deserialize_any(BytesVisitor)?;
        let value = T::try_from(bytes).ok().filter(|_fits| bytes > 0);
        value.map(Self).ok_or_else(|| {
            D::Error::custom(format_args!("{bytes} bytes are not in the range allowed"))
        })
    }
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number of bytes (such as 65536 or 64KiB)")
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<u64, E> {
        Ok(bytes)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim() {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(E::invalid_value(Unexpected::Str(text), &self)),
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// What happens to new publishes while the registry is down.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OutagePolicy {
    FailClosed,
    Keep,
}

/// A list, or one value instead of a list of one.
#[derive(Clone, Debug)]
pub(super) struct OneOrMany<T>(Vec<Option<T>>);

impl<T> OneOrMany<T> {
    /// The values; each that is missing is a mistake.
    pub(super) fn finish(self, path: &str, check: &mut Check) -> Vec<T> {
        let mut values = Vec::with_capacity(self.0.len());
        for (index, value) in self.0.into_iter().enumerate() {
            values.extend(check.required(&format!("{path}[{index}]"), value));
        }
        values
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor(std::marker::PhantomData))
    }
}

struct OneOrManyVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
    type Value = OneOrMany<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list, or one value of it")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let value = T::deserialize(text.into_deserializer())?;
        Ok(OneOrMany(vec![Some(value)]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<Self::Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(values)).map(OneOrMany)
    }
}

/// Makes a section whose fields are those of a role's `Config` struct with a `Default`: what is given replaces the
/// default. A field that the role has and the section lacks does not compile.
macro_rules! defaulted_section {
    ($(#[$doc:meta])* $name:ident => $target:path { $($field:ident: $scalar:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(default)]
        pub(super) struct $name {
            $($field: Option<$scalar>),*
        }

        impl $name {
            /// The role's struct.
            pub(super) fn finish(section: Option<Self>) -> $target {
                let section = section.unwrap_or_default();
                let $target { $(mut $field),* } = <$target>::default();
                $(
                    if let Some(value) = section.$field {
                        $field = value.0;
                    }
                )*
                $target { $($field),* }
            }
        }
    };
}
pub(super) use defaulted_section;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bytes_have_units() {
        let bytes = |value| serde_json::from_value::<Bytes<u32>>(value).map(|bytes| bytes.0);
        assert_eq!(bytes(json!(17)).unwrap(), 17);
        assert_eq!(bytes(json!("64KiB")).unwrap(), 65_536);
        assert_eq!(bytes(json!("2 MiB")).unwrap(), 2_097_152);
        for wrong in [
            json!(0),
            json!("4GiB"),
            json!("1kb"),
            json!("KiB"),
            json!(-1),
        ] {
            assert!(bytes(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_repeats_needs_a_pause_and_no_time_overflows_a_clock() {
        fn right<T: serde::de::DeserializeOwned>(text: &str) -> bool {
            serde_json::from_value::<T>(json!(text)).is_ok()
        }
        assert!(right::<Time>("0s") && !right::<Time>("1000years"));
        assert!(right::<Period>("1ms") && !right::<Period>("0s") && !right::<Period>("1000years"));
        assert!(right::<Seconds>("1s") && !right::<Seconds>("900ms"));
    }

    #[test]
    fn a_url_names_a_server_and_nothing_else() {
        for (text, right) in [
            ("http://collector:4317", true),
            ("https://[::1]:4317/", true),
            ("collector:4317", false),
            ("ftp://collector", false),
            ("https://user:password@collector", false),
            ("https://collector/v1/traces", false),
            ("https://", false),
        ] {
            let parsed = serde_json::from_value::<Url>(json!(text));
            assert_eq!(parsed.is_ok(), right, "{text}");
        }
    }

    #[test]
    fn a_ratio_is_a_share() {
        for (value, right) in [
            (json!(0), true),
            (json!(1), true),
            (json!(0.25), true),
            (json!(1.5), false),
            (json!(-0.1), false),
            (json!("half"), false),
        ] {
            let parsed = serde_json::from_value::<Ratio>(value.clone());
            assert_eq!(parsed.is_ok(), right, "{value}");
        }
    }

    #[test]
    fn a_host_needs_a_port() {
        for (text, right) in [
            ("control:7445", true),
            ("[::1]:7445", true),
            ("control", false),
            ("https://control:7445", false),
            ("control:0", false),
            (":7445", false),
        ] {
            let parsed = serde_json::from_value::<HostPort>(json!(text));
            assert_eq!(parsed.is_ok(), right, "{text}");
        }
    }
}
