//! Publishing and unpublishing a port, as changes of a service's declaration: pure.

use super::state::{OperationError, PublishRequest, UnpublishRequest};
use mesh_control::model::{Publish, ServicePort, ServiceSpec};

/// `spec` with one more port open on nodes; a port may be published at several places. Naming a place where it is
/// published already changes its mode only.
///
/// # Errors
/// [`OperationError`] naming the field when no port of the service fits, or several do.
pub fn publish(spec: &ServiceSpec, request: &PublishRequest) -> Result<ServiceSpec, OperationError> {
    let invalid =
        |field: &str, problem: String| Err(OperationError::Invalid { field: field.to_owned(), problem });
    let fits = |p: &ServicePort| {
        p.protocol == request.protocol && request.target.is_none_or(|t| p.port.contains(t) || p.target == t)
    };
    let dialled = |p: &ServicePort| request.target.is_some_and(|t| p.port.first() == t);
    let mut fitting: Vec<usize> = (0..spec.ports.len()).filter(|i| fits(&spec.ports[*i])).collect();
    // The port that clients dial goes before an equal endpoint port of another entry.
    if fitting.len() > 1 && fitting.iter().any(|i| dialled(&spec.ports[*i])) {
        fitting.retain(|i| dialled(&spec.ports[*i]));
    }
    let have = || {
        let ports: Vec<String> = spec.ports.iter().map(|p| format!("{}/{}", p.port, p.protocol)).collect();
        if ports.is_empty() { "none".to_owned() } else { ports.join(", ") }
    };
    let index = match fitting.as_slice() {
        [one, more @ ..] if more.iter().all(|i| spec.ports[*i].port == spec.ports[*one].port) => *one,
        [] => return invalid("target", format!("the service has no such port; it has {}", have())),
        _ => return invalid("target", format!("the service has several ports: name one of {}", have())),
    };
    let mut changed = spec.clone();
    let port = &changed.ports[index];
    if let Some(wanted) = request.published
        && wanted.count() != port.port.count()
    {
        return invalid("published", format!("{wanted} and the port {} differ in length", port.port));
    }
    let (address, allow) =
        port.publish.as_ref().map_or((None, Vec::new()), |first| (first.address, first.allow.clone()));
    let publish = Publish { port: request.published, mode: request.mode, address, allow };
    let there = |i: &&usize| {
        let publish = changed.ports[**i].publish.as_ref();
        publish.is_some_and(|p| (p.port, p.address) == (request.published, address))
    };
    match fitting.iter().find(there) {
        Some(same) => {
            if let Some(publish) = &mut changed.ports[*same].publish {
                publish.mode = request.mode;
            }
        }
        None if port.publish.is_none() => changed.ports[index].publish = Some(publish),
        None => {
            let again = ServicePort { publish: Some(publish), ..port.clone() };
            changed.ports.push(again);
        }
    }
    match changed.validate() {
        Ok(()) => Ok(changed),
        Err(e) => invalid(&e.field, e.problem),
    }
}

/// `spec` with one port less open on nodes. `held` gives the port a service port of this index holds, which for
/// ports out of the dynamic range stands in the snapshot only.
///
/// # Errors
/// [`OperationError::NotFound`] when that port is not published.
pub fn unpublish(
    spec: &ServiceSpec,
    request: UnpublishRequest,
    held: impl Fn(usize) -> Option<u16>,
) -> Result<ServiceSpec, OperationError> {
    let mut changed = spec.clone();
    for (index, port) in spec.ports.iter().enumerate() {
        let Some(publish) = &port.publish else { continue };
        let first = publish.port.map(mesh_control::model::PortRange::first).or_else(|| held(index));
        if port.protocol == request.protocol && first == Some(request.published) {
            // The port itself stays, as the VIP's.
            if spec.ports.iter().any(|other| other.publishes_again(port)) {
                changed.ports.remove(index);
            } else {
                changed.ports[index].publish = None;
            }
            return Ok(changed);
        }
    }
    Err(OperationError::NotFound(format!(
        "the service publishes no port {}/{}",
        request.published, request.protocol
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_control::model::{Protocol, PublishMode};

    fn port(port: &str, target: u16, protocol: Protocol) -> ServicePort {
        let port = port.parse().unwrap();
        ServicePort { name: None, protocol, port, target, publish: None, proxy_protocol: false }
    }

    fn request(published: &str, target: Option<u16>) -> PublishRequest {
        let published = Some(published.parse().unwrap());
        PublishRequest { published, target, protocol: Protocol::Tcp, mode: PublishMode::Ingress }
    }

    #[test]
    fn a_port_is_opened_once_more_and_closed() {
        let ports = vec![port("80", 8080, Protocol::Tcp), port("53", 53, Protocol::Udp)];
        let spec = ServiceSpec { ports, ..ServiceSpec::default() };
        let open = publish(&spec, &request("8000", None)).unwrap();
        assert_eq!(open.ports[0].publish.as_ref().unwrap().port.unwrap().first(), 8000);
        let both = publish(&open, &request("8001", Some(8080))).unwrap();
        assert_eq!(publish(&both, &request("8001", Some(80))).unwrap(), both, "twice is once");
        let close = |spec: &ServiceSpec, port, protocol| {
            unpublish(spec, UnpublishRequest { published: port, protocol }, |_| None)
        };
        let second = close(&both, 8000, Protocol::Tcp).unwrap();
        assert_eq!(close(&both, 8001, Protocol::Tcp).unwrap(), open);
        let mut none = close(&second, 8001, Protocol::Tcp).unwrap();
        none.ports.sort_by_key(|p| std::cmp::Reverse(p.port.first()));
        assert_eq!(none, spec);
        assert!(close(&second, 8000, Protocol::Tcp).is_err() && close(&both, 8001, Protocol::Udp).is_err());

        let mut dynamic = open.clone();
        dynamic.ports[0].publish.as_mut().unwrap().port = None;
        let held = |i: usize| (i == 0).then_some(30_001);
        let asked = UnpublishRequest { published: 30_001, protocol: Protocol::Tcp };
        assert_eq!(unpublish(&dynamic, asked, held).unwrap(), spec);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let ports = vec![port("80", 8080, Protocol::Tcp), port("8080", 9090, Protocol::Tcp)];
        let spec = ServiceSpec { ports, ..ServiceSpec::default() };
        for (published, target, word) in
            [("1", None, "several"), ("1", Some(7), "no such"), ("1-2", Some(80), "differ in length")]
        {
            let error = publish(&spec, &request(published, target)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        // 8080 is dialled on the second entry and only an endpoint port of the first.
        assert!(publish(&spec, &request("1", Some(8080))).unwrap().ports[1].publish.is_some());
    }
}
