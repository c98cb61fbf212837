//! What the programs tell of packets that they do not forward.

use crate::map::value;
use aya::maps::{Map, MapData, MapError, RingBuf};
use mesh_ebpf_common::Event;
use std::{fmt, io, path::Path};

/// The reading end of the ring `events`. What nobody reads stays until it is full; what is told then is counted alone.
pub struct Events(RingBuf<MapData>);

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

fn failed(error: MapError) -> io::Error {
    io::Error::other(error)
}

impl Events {
    pub(crate) fn open(at: &Path) -> io::Result<Events> {
        Events::new(Map::from_map_data(MapData::from_pin(at).map_err(failed)?).map_err(failed)?)
    }

    /// Reads what is in a map.
    ///
    /// # Errors
    /// When it is no ring, and the kernel's.
    pub fn new(map: Map) -> io::Result<Events> {
        RingBuf::try_from(map).map(Events).map_err(failed)
    }

    /// The next that was told, the eldest first.
    pub fn next_event(&mut self) -> Option<Event> {
        // What has another length is of no program of ours.
        self.0.next().and_then(|bytes| value(&bytes))
    }
}
