//! Images and their layers on disk. Must not know of containers.
