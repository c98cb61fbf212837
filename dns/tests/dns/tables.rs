//! The tables of topics: each file is a mesh, a line `---`, and the rows asked of it.

use crate::{answers::options, mesh, table};
use mesh_control::model::Name;
use mesh_dns::{AnswerOptions, Scope, Zone};

fn check(text: &str, options: &AnswerOptions, scope: &Scope) {
    let (mesh, rows) = text.split_once("\n---\n").expect("a mesh and rows");
    table::check(&mesh::read(mesh), rows, options, scope);
}

fn names(all: &[&str]) -> Option<Vec<Name>> {
    Some(all.iter().map(|name| Name::new(name).unwrap()).collect())
}

#[test]
fn kubernetes_specification() {
    let options = AnswerOptions { kubernetes: Some(Zone::kubernetes("cluster.local").unwrap()), ..options() };
    check(include_str!("data/kubernetes.txt"), &options, &Scope::default());
}

#[test]
fn coredns_kubernetes_plugin() {
    let options = AnswerOptions { kubernetes: Some(Zone::kubernetes("cluster.local").unwrap()), ..options() };
    check(include_str!("data/coredns.txt"), &options, &Scope::default());
}

#[test]
fn docker_in_a_container() {
    let scope = Scope { namespaces: names(&["shop"]), bare_names: true, ..Scope::default() };
    check(include_str!("data/docker.txt"), &options(), &scope);
}

#[test]
fn search_paths() {
    check(include_str!("data/search.txt"), &options(), &Scope::default());
}

#[test]
fn scopes() {
    let namespaces = names(&["data", "shop"]);
    let default_namespace = Some(Name::new("shop").unwrap());
    let scope = Scope { namespaces, default_namespace, bare_names: false };
    check(include_str!("data/scope.txt"), &options(), &scope);
}
