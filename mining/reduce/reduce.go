// Package reduce makes vectors shorter: it fits principal axes on a sample and projects vectors on them (PCA). It is pure: no
// clock, no network, no storage.
package reduce
