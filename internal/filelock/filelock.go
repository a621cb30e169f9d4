// Package filelock keeps processes apart by a lock on a file.
package filelock

import (
	"errors"
	"os"
)

// ErrLocked means that another open file holds the lock.
var ErrLocked = errors.New("locked by another process")

// Open opens a file, which it makes where it is missing, and locks it until it is closed or the process ends, however
// that ends. It does not wait: where the lock is held the error is ErrLocked. Where the system is not Unix nothing is
// locked.
func Open(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := try(file); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}
