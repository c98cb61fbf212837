//! The OpenAPI document says what is served: the same operations, the same shapes.

use crate::world::World;
use mesh_agent::admin::{OPENAPI, ROUTES};
use serde_json::Value;
use std::collections::BTreeSet;

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

#[test]
fn it_lists_exactly_the_routes() {
    let document = document();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            described.insert((method.to_uppercase(), path.clone()));
        }
    }
    let served: BTreeSet<_> = ROUTES.iter().map(|r| (r.method.to_owned(), r.path.to_owned())).collect();
    assert_eq!(described, served);
}

#[test]
fn every_reference_leads_somewhere_and_ids_are_unique() {
    let document = document();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{path}");
            let parameters: Vec<Value> = operation["parameters"].as_array().cloned().unwrap_or_default();
            for part in path.split('/').filter_map(|p| p.strip_prefix('{')?.strip_suffix('}')) {
                assert!(parameters.iter().any(|p| p["in"] == "path" && p["name"] == part), "{path}: {part}");
            }
        }
    }
    references(&document, &document);
}

fn references(value: &Value, document: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref") {
                let pointer = target.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
            }
            map.values().for_each(|v| references(v, document));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, document)),
        _ => {}
    }
}

#[tokio::test]
async fn answers_have_the_shape_it_gives() {
    let world = World::start().await;
    world.happens(3);
    let document = document();
    for (path, template, status) in [
        ("/v1/status", "/v1/status", 200),
        ("/v1/services", "/v1/services", 200),
        ("/v1/services/web", "/v1/services/{name}", 200),
        ("/v1/services/none", "/v1/services/{name}", 404),
        ("/v1/endpoints", "/v1/endpoints", 200),
        ("/v1/nodes", "/v1/nodes", 200),
        ("/v1/keys", "/v1/keys", 200),
        ("/v1/dns?name=web.cluster", "/v1/dns", 200),
        ("/v1/dns?name=web.cluster&explain=true", "/v1/dns", 200),
        ("/v1/dns", "/v1/dns", 400),
        ("/v1/explain?destination=127.96.0.7:80", "/v1/explain", 200),
        ("/v1/events?since=0", "/v1/events", 200),
        ("/v1/events?since=99", "/v1/events", 400),
        ("/v1/plan", "/v1/plan", 200),
        ("/v1/attachments", "/v1/attachments", 200),
        ("/livez", "/livez", 200),
        ("/readyz", "/readyz", 200),
        ("/healthz", "/healthz", 200),
    ] {
        let heard = world.get(path).await;
        assert_eq!(heard.status, status, "{path}");
        let mut response = &document["paths"][template]["get"]["responses"][status.to_string()];
        if let Some(Value::String(target)) = response.get("$ref") {
            response = document.pointer(&target[1..]).unwrap();
        }
        matches(&heard.json(), &response["content"]["application/json"]["schema"], &document, path);
    }
}

/// The part of JSON Schema that the document uses.
fn matches(value: &Value, schema: &Value, document: &Value, at: &str) {
    if let Some(Value::String(target)) = schema.get("$ref") {
        return matches(value, document.pointer(&target[1..]).unwrap(), document, at);
    }
    if let Some(choices) = schema.get("oneOf") {
        let choice = if value.is_null() { &choices[1] } else { &choices[0] };
        return matches(value, choice, document, at);
    }
    let types = match &schema["type"] {
        Value::String(one) => vec![one.clone()],
        list => list.as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect(),
    };
    let is = |t: &str| match t {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}"),
    };
    assert!(types.iter().any(|t| is(t)), "{at}: {value} is none of {types:?}");
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        assert!(words.contains(value), "{at}: {value}");
    }
    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
        matches(item, &schema["items"], document, &format!("{at}[{i}]"));
    }
    for (key, item) in value.as_object().into_iter().flatten() {
        match (schema["properties"].get(key), schema.get("additionalProperties")) {
            (Some(known), _) => matches(item, known, document, &format!("{at}.{key}")),
            (None, Some(Value::Object(any))) => {
                matches(item, &Value::Object(any.clone()), document, &format!("{at}.{key}"));
            }
            (None, Some(Value::Bool(false))) => panic!("{at}.{key} is not described"),
            (None, _) => {}
        }
    }
    for key in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(key.as_str().unwrap()).is_some(), "{at}.{key} is missing");
    }
}
