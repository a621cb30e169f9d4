// Package filelock lets only one process at a time use a resource, by a lock on a file. The embedded Kafka, the
// vector cache, internal/service and cmd/hardneg use it.
package filelock

import (
	"errors"
	"os"
)

// ErrLocked means that another open file holds the lock.
var ErrLocked = errors.New("locked by another process")

// Open opens a file and locks it, and creates it if it is missing. The lock lasts until the file is closed or
// the process ends, even by a crash. Open does not wait: if the lock is held, it returns ErrLocked. On
// systems other than Unix nothing is locked.
func Open(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := try(file); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}
