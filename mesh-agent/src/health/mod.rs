//! Health checks of the endpoints this node owns.
