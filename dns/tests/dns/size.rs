//! What the index holds, at the size of the largest meshes.

use crate::{
    answers::{options, question},
    load::resident,
    mesh,
};
use hickory_proto::rr::RecordType;
use mesh_control::model::{Addresses, Endpoint, EndpointView, Name, ServiceKey, ServiceSpec, ServiceView};
use mesh_dns::{DnsView, answer};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

const SERVICES: u32 = 100_000;

/// Each with a VIP and one endpoint, so 400,000 names and 200,000 addresses are answered from it.
#[test]
fn a_hundred_thousand_services_fit_64_mib() {
    let mut snapshot = mesh::read("");
    let spec = Arc::new(ServiceSpec::default());
    let address = |network: u32, i: u32| Addresses::from(IpAddr::V4(Ipv4Addr::from(network + i)));
    for i in 0..SERVICES {
        let key = ServiceKey::new(&format!("ns-{}", i % 100), &format!("service-{i}")).unwrap();
        let instance = Name::new(&format!("service-{i}-1")).unwrap();
        let endpoint = Endpoint::new(instance, address(0x0a00_0000, i));
        let view = ServiceView {
            key: key.clone(),
            spec: Arc::clone(&spec),
            origins: Vec::new(),
            conflict: None,
            vips: address(0x0a60_0000, i),
            published: Vec::new(),
            endpoints: [EndpointView { node: Name::new("n1").unwrap(), zone: None, endpoint }].into(),
            hidden_endpoints: 0,
        };
        snapshot.set_service(key, Some(Arc::new(view)));
    }
    let before = resident();
    let started = std::time::Instant::now();
    let view = DnsView::new(&snapshot);
    let grown = resident() - before;
    eprintln!("{SERVICES} services indexed in {:?}: {grown} KiB", started.elapsed());
    assert_eq!(view.services(), 100_000);
    let name = format!("service-{0}-1.service-{0}.ns-77.cluster", 54_277);
    let got = answer(&view, &question(&name, RecordType::A), 0, &options()).unwrap();
    assert_eq!(got.answers[0].data.to_string(), Ipv4Addr::from(0x0a00_0000 + 54_277).to_string());
    assert!(grown < 64 * 1024, "{grown} KiB");
}
