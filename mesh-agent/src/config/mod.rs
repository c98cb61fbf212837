//! The configuration file of `mesh-agent run`, read whole or refused whole: every problem is named at once with file,
//! line, key, value and fix. `docs/config.md` shows every key.

mod check;
mod ebpf;
mod host;
mod ipvs;
mod limits;
mod links;
mod load;
mod overlay;
mod read;
mod scopes;
mod secrets;
#[cfg(test)]
mod tests;
mod types;
mod upstreams;
mod values;
pub mod yaml;

pub use ebpf::{EbpfConfig, HookChoice, ReturnChoice, XdpChoice};
pub use host::HostFacts;
pub use ipvs::{ForwardChoice, IpvsConfig};
pub use links::OverlayLinks;
pub use types::{
    AdminConfig, ClusterConfig, Config, DnsConfig, FilesConfig, LogConfig, LogFormat, MetricsConfig,
    NodeConfig, PlaneChoice, PublishConfig, Secret, SourcesConfig, TlsConfig, Upstreams, UserspaceConfig,
};
/// Everything that is wrong with a configuration.
pub use yaml::Problems as ConfigErrors;
