package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"hardneg/internal/filelock"
)

// Addresses holds the addresses of a running service, host:port each. If Kafka or Qdrant does not belong to
// the service, it is the address that the service itself uses, such as the first of several brokers.
type Addresses struct {
	Kafka  string `json:"kafka"`
	Qdrant string `json:"qdrant"`
	HTTP   string `json:"http"`
}

const (
	addressesFile = "addresses.json"
	lockFile      = "lock"
)

// ErrNotRunning means that no service has written its addresses into the data directory.
var ErrNotRunning = errors.New("no service runs")

// ReadAddresses reads the addresses that a running service has written into its data directory. The error
// is ErrNotRunning if there are none.
func ReadAddresses(dir string) (Addresses, error) {
	path := filepath.Join(dir, addressesFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Addresses{}, fmt.Errorf("%w with the data directory %s: there is no %s", ErrNotRunning, dir, path)
	}
	if err != nil {
		return Addresses{}, err
	}
	var a Addresses
	if err := json.Unmarshal(text, &a); err != nil {
		return Addresses{}, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

// write replaces the file in one step: a client may read at any moment, and must never find half a file.
func (a Addresses) write(dir string) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, addressesFile)
	next, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // a service that was killed can have left this file
	if err != nil {
		return err
	}
	_, err = next.Write(append(text, '\n'))
	if err := errors.Join(err, next.Sync(), next.Close()); err != nil {
		return err
	}
	return os.Rename(next.Name(), path)
}

// dataDir is a data directory that no other process uses.
type dataDir struct {
	path      string
	temporary bool
	lock      *os.File
}

// openDataDir opens and locks a directory. It makes the directory if it is missing, and makes a temporary
// one if the path is empty. The operating system ends the lock with the process, also after a kill.
func openDataDir(path string) (*dataDir, error) {
	d := &dataDir{path: path}
	if path == "" {
		temporary, err := os.MkdirTemp("", "hardneg-")
		if err != nil {
			return nil, fmt.Errorf("temporary data directory: %w", err)
		}
		d.path, d.temporary = temporary, true
	}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	lock, err := filelock.Open(filepath.Join(d.path, lockFile))
	if errors.Is(err, filelock.ErrLocked) {
		return nil, fmt.Errorf("data_dir: %s is in use by another hardneg; end it, or choose another directory", d.path)
	}
	if err != nil {
		return nil, fmt.Errorf("data_dir: cannot lock %s: %w", d.path, err)
	}
	d.lock = lock
	// A service that was killed leaves its addresses. Nothing listens there now, or another program does.
	if err := os.Remove(filepath.Join(d.path, addressesFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		lock.Close()
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	return d, nil
}

// close removes the addresses, and the whole directory if it is a temporary one. Then it unlocks.
func (d *dataDir) close() error {
	err := os.Remove(filepath.Join(d.path, addressesFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if d.temporary {
		err = os.RemoveAll(d.path)
	}
	return errors.Join(err, d.lock.Close())
}
