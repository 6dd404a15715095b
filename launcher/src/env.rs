//! Every environment variable the program reads or hands to its ranks.

/// The levels of the ranks' logs, in the syntax of `tracing`'s `EnvFilter`: `debug`, or `info,reduce=trace`. Default: `info`.
pub const LORACT_LOG: &str = "LORACT_LOG";

/// Variables of `launch`'s environment that every rank gets too, on other hosts as well, where they are set.
pub const HANDED_ON: &[&str] = &[
    LORACT_LOG,
    setup::INJECT_FAULT_VARIABLE,
    collective::env::LORACT_CHECK_COLLECTIVES.name,
    "RUST_BACKTRACE",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "NCCL_DEBUG",
    "NCCL_SOCKET_IFNAME",
];

/// The handed-on variables that are set.
pub fn handed_on() -> Vec<&'static str> {
    HANDED_ON.iter().copied().filter(|name| std::env::var_os(name).is_some()).collect()
}
