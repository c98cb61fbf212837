//! Sets up the logs of the long-running commands, on stderr. Nothing here or elsewhere logs keys or tokens.

use super::{
    args::{LogArgs, LogFormat},
    exit::{Code, Failure},
};
use std::io::{self, IsTerminal};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// Starts logging, once a process. What stands in the arguments (or their environment variables) goes before
/// `format` and `filter`, which come from a configuration file.
///
/// # Errors
/// [`Failure`] with [`Code::Usage`] when the filter cannot be read or logging was started before.
pub fn init(args: &LogArgs, format: Option<LogFormat>, filter: Option<&str>) -> Result<(), Failure> {
    let terminal = io::stderr().is_terminal();
    let default = if terminal { LogFormat::Text } else { LogFormat::Logfmt };
    let format = args.log_format.or(format).unwrap_or(default);
    let filter = args.log.as_deref().or(filter).unwrap_or("info");
    let filter = EnvFilter::try_new(filter).map_err(|e| {
        Failure::new(Code::Usage, format!("log filter `{filter}`: {e}"))
            .fix("write a level (error, warn, info, debug, trace), or info,mesh_control=debug")
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    let colored = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let started = match format {
        LogFormat::Text => registry
            .with(tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colored))
            .try_init(),
        LogFormat::Logfmt => {
            registry.with(tracing_logfmt::builder().layer().with_writer(io::stderr)).try_init()
        }
        LogFormat::Json => registry
            .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(io::stderr))
            .try_init(),
    };
    started.map_err(|e| Failure::new(Code::Failure, format!("logging: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_wrong_usage() {
        let args = LogArgs { log: Some("mesh=loudest".to_owned()), ..LogArgs::default() };
        let failure = init(&args, Some(LogFormat::Json), None).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.message.contains("mesh=loudest"), "{failure}");
    }
}
