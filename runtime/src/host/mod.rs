//! One host as a Backend: tasks, their containers, images. Must not know of clusters.
