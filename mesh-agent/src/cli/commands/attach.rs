//! `attach`, `detach` and `attachments`.

use super::format::done;
use crate::{
    admin::{
        encode,
        wire::{AttachBody, AttachmentJson, AttachmentsJson, Done},
    },
    cli::{
        args::{AttachArgs, DetachArgs},
        client::Client,
        exit::Failure,
        output::{Output, Table, clean},
    },
};
use std::path::Path;

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

pub(super) async fn attach(client: &Client, args: AttachArgs, output: Output) -> Result<(), Failure> {
    let body = AttachBody { netns: text(&args.netns), name: Some(args.name), address: args.address };
    let attached: AttachmentJson = client.send("POST", "/v1/attachments", &body).await?;
    if output.json {
        return output.json(&attached);
    }
    output.print(&format!("{}\n", clean(&attached.addresses.join(" "))))
}

pub(super) async fn detach(client: &Client, args: &DetachArgs, output: Output) -> Result<(), Failure> {
    let (netns, name) = (encode(&text(&args.netns)), encode(&args.name));
    let path = format!("/v1/attachments?netns={netns}&name={name}");
    done(output, &client.call::<Done>("DELETE", &path, None).await?)
}

pub(super) async fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let list: AttachmentsJson = client.get("/v1/attachments").await?;
    if output.json {
        return output.json(&list);
    }
    let mut table = Table::new(&["NETNS", "LINK", "ADDRESS", "PORT", "MTU"]);
    for a in list.attachments {
        table.row(vec![a.netns, a.name, a.addresses.join(","), a.port, a.mtu.to_string()]);
    }
    output.table(&table)
}
