//! One log per stream; its tail is the GOP cache.
