//! Wire timestamps (u32 milliseconds) unwrapped to 64 bits.
