//! This host as a member of one cluster.
