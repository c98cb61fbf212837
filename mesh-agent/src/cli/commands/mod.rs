//! The commands that ask an agent.

mod attach;
mod dns;
mod endpoint;
mod events;
mod format;
mod key;
mod query;
mod service;
mod status;

use super::{
    args::{Command, Global, TokenCommand},
    client::Client,
    exit::{Code, Failure},
    output::Output,
};

/// Runs one command to its end.
pub(super) fn run(command: Command, global: &Global, output: Output) -> Result<(), Failure> {
    let client = Client::new(&global.admin, global.token_file.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Failure, format!("cannot start: {e}")))?;
    runtime.block_on(async {
        match command {
            Command::Status(args) => status::run(&client, &args, output).await,
            Command::Service(command) => service::run(&client, command, output).await,
            Command::Endpoint(command) => endpoint::run(&client, command, output).await,
            Command::Nodes(args) => query::nodes(&client, args.command, output).await,
            Command::Events(args) => events::run(&client, &args, output).await,
            Command::Key(command) => key::run(&client, command, output).await,
            Command::Token(TokenCommand::Create(args)) => key::create_token(&client, args, output).await,
            Command::Dns(command) => dns::run(&client, command, output).await,
            Command::Why(args) => query::why(&client, &args, output).await,
            Command::Attach(args) => attach::attach(&client, args, output).await,
            Command::Detach(args) => attach::detach(&client, &args, output).await,
            Command::Attachments => attach::list(&client, output).await,
            Command::Plan => query::plan(&client, output).await,
            // Those that ask no agent were run before.
            Command::Run(_)
            | Command::Demo(_)
            | Command::Config(_)
            | Command::Token(_)
            | Command::Doctor(_)
            | Command::Cleanup(_)
            | Command::Completion { .. }
            | Command::Version => Ok(()),
        }
    })
}
