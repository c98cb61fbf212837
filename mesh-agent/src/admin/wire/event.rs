//! Events, as a list and as a stream.

use crate::events::Event;
use serde::{Deserialize, Serialize};

/// `GET /v1/events`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct EventsJson {
    /// The number of the newest event: ask `since` it to hear what comes next.
    pub newest: u64,
    /// How many events that were asked for are forgotten; asked by time, at most so many.
    pub missed: u64,
    /// The others, oldest first.
    pub events: Vec<EventJson>,
}

/// An event.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EventJson {
    /// Counts from 1 in each run of the agent, without gaps.
    pub seq: u64,
    /// Unix time in milliseconds at which this node saw it.
    pub at: u64,
    /// The snapshot's revision by then.
    pub revision: u64,
    /// As `node-down`; docs/cli.md lists them.
    pub kind: String,
    /// Whether somebody should look at it.
    pub trouble: bool,
    /// A node, a service, a source or a frontend.
    pub subject: String,
    /// In words.
    pub text: String,
}

impl EventJson {
    pub(crate) fn new(event: &Event) -> EventJson {
        EventJson {
            seq: event.seq,
            at: event.at,
            revision: event.revision,
            kind: event.news.kind.as_str().to_owned(),
            trouble: event.news.kind.is_trouble(),
            subject: event.news.subject.clone(),
            text: event.news.text.clone(),
        }
    }
}

/// One line of `GET /v1/events?follow=true`. An empty line only says that the agent is there.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StreamLine {
    /// Something happened.
    Event(EventJson),
    /// The first line when events that were asked for are forgotten.
    Missed {
        /// How many; asked by time, at most so many.
        missed: u64,
    },
    /// The last line.
    End {
        /// Why the stream ends.
        end: String,
        /// Whether the reader was too slow; else the agent stops.
        slow: bool,
    },
}
