//go:build !unix

package kafka

import "os"

// lockFile opens a file. On this system nothing keeps a second process out.
func lockFile(name string) (*os.File, error) { return os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644) }
