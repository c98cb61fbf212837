//! The route table, and finding a route: pure. `openapi.json` lists exactly these; a test compares.

use super::text::decode;

/// One operation of the API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// As `GET`.
    pub method: &'static str,
    /// As `/v1/services/{name}`; a part in braces matches one path segment.
    pub path: &'static str,
    pub(crate) action: Action,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Status,
    Services,
    Service,
    Apply,
    RemoveService,
    Publish,
    Unpublish,
    Endpoints,
    AddEndpoint,
    RemoveEndpoint,
    Drain,
    Undrain,
    Nodes,
    DrainNode,
    ForgetNode,
    Events,
    Keys,
    AddKey,
    UseKey,
    RemoveKey,
    RenewKey,
    CreateToken,
    Dns,
    Explain,
    Plan,
    Attachments,
    Attach,
    Detach,
    OpenApi,
    Metrics,
    Livez,
    Readyz,
    Healthz,
}

impl Action {
    /// Metrics and probes: all that the metrics listener serves, and what needs no token (metrics aside).
    pub(crate) fn is_probe(self) -> bool {
        matches!(self, Action::Livez | Action::Readyz | Action::Healthz)
    }

    /// What makes members of the mesh, or has the agent reach into other programs' namespaces as root: whoever asks for
    /// it must have proven who it is.
    pub(crate) fn needs_proof(self) -> bool {
        matches!(
            self,
            Action::AddKey
                | Action::UseKey
                | Action::RemoveKey
                | Action::RenewKey
                | Action::CreateToken
                | Action::Attach
                | Action::Detach
        )
    }
}

macro_rules! routes {
    ($($method:literal $path:literal $action:ident),* $(,)?) => {
        /// Every operation that is served.
        pub const ROUTES: &[Route] = &[$(Route { method: $method, path: $path, action: Action::$action }),*];
    };
}

routes! {
    "GET" "/v1/status" Status,
    "GET" "/v1/services" Services,
    "PUT" "/v1/services" Apply,
    "GET" "/v1/services/{name}" Service,
    "DELETE" "/v1/services/{name}" RemoveService,
    "POST" "/v1/services/{name}/publish" Publish,
    "DELETE" "/v1/services/{name}/publish" Unpublish,
    "POST" "/v1/services/{name}/endpoints" AddEndpoint,
    "DELETE" "/v1/services/{name}/endpoints/{instance}" RemoveEndpoint,
    "POST" "/v1/services/{name}/endpoints/{instance}/drain" Drain,
    "DELETE" "/v1/services/{name}/endpoints/{instance}/drain" Undrain,
    "GET" "/v1/endpoints" Endpoints,
    "GET" "/v1/nodes" Nodes,
    "DELETE" "/v1/nodes/{node}" ForgetNode,
    "POST" "/v1/nodes/{node}/drain" DrainNode,
    "GET" "/v1/events" Events,
    "GET" "/v1/keys" Keys,
    "POST" "/v1/keys" AddKey,
    "POST" "/v1/keys/{id}/use" UseKey,
    "DELETE" "/v1/keys/{id}" RemoveKey,
    "POST" "/v1/overlay/key" RenewKey,
    "POST" "/v1/tokens" CreateToken,
    "GET" "/v1/dns" Dns,
    "GET" "/v1/explain" Explain,
    "GET" "/v1/plan" Plan,
    "GET" "/v1/attachments" Attachments,
    "POST" "/v1/attachments" Attach,
    "DELETE" "/v1/attachments" Detach,
    "GET" "/openapi.json" OpenApi,
    "GET" "/metrics" Metrics,
    "GET" "/livez" Livez,
    "GET" "/readyz" Readyz,
    "GET" "/healthz" Healthz,
}

/// What a method and a path lead to.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// The operation, and the path's variable segments in order, decoded.
    Route(Action, Vec<String>),
    /// The path is there, the method is not; these are, as `GET, HEAD`.
    Methods(String),
    Nothing,
}

/// Looks a request up. HEAD is answered wherever GET is (RFC 9110 section 9.1).
pub(crate) fn find(method: &str, path: &str) -> Found {
    let mut methods = Vec::new();
    for route in ROUTES {
        let Some(variables) = match_path(route.path, path) else { continue };
        if route.method == method || (route.method == "GET" && method == "HEAD") {
            return Found::Route(route.action, variables);
        }
        methods.push(route.method);
        if route.method == "GET" {
            methods.push("HEAD");
        }
    }
    if methods.is_empty() { Found::Nothing } else { Found::Methods(methods.join(", ")) }
}

fn match_path(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut variables = Vec::new();
    let (mut want, mut have) = (pattern.split('/'), path.split('/'));
    loop {
        match (want.next(), have.next()) {
            (None, None) => return Some(variables),
            (Some(w), Some(h)) if w.starts_with('{') => {
                let value = decode(h, false).filter(|v| !v.is_empty())?;
                variables.push(value);
            }
            (Some(w), Some(h)) if w == h => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_actions() {
        let found = |m, p| find(m, p);
        assert_eq!(found("GET", "/v1/services"), Found::Route(Action::Services, vec![]));
        assert_eq!(found("HEAD", "/v1/status"), Found::Route(Action::Status, vec![]));
        let name = vec!["web.shop".to_owned()];
        assert_eq!(found("GET", "/v1/services/web%2Eshop"), Found::Route(Action::Service, name));
        let both = vec!["web".to_owned(), "w1".to_owned()];
        assert_eq!(found("POST", "/v1/services/web/endpoints/w1/drain"), Found::Route(Action::Drain, both));
        assert_eq!(found("PATCH", "/v1/services"), Found::Methods("GET, HEAD, PUT".into()));
        for nothing in ["/", "", "/v1", "/v1/services/", "/v1/services/%zz", "/v1/status/x", "//v1/status"] {
            assert_eq!(found("GET", nothing), Found::Nothing, "{nothing}");
        }
    }

    #[test]
    fn no_operation_is_listed_twice() {
        for (i, a) in ROUTES.iter().enumerate() {
            assert!(!ROUTES[..i].iter().any(|b| (a.method, a.path) == (b.method, b.path)), "{a:?}");
        }
    }
}
