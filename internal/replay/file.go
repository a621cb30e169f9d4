package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"hardneg/internal/filelock"
	"hardneg/internal/triplets"
	"hardneg/stream"
)

// checkpointEvery is the time between two checkpoints of a file. After a kill the replay mines again what
// came after the last one.
const checkpointEvery = 500 * time.Millisecond

// File is the Output of a replay into a file. Until the end the triplets are in .NAME.replay beside it. The
// file .NAME.replay.json is the checkpoint: it says how many bytes of the data belong to the progress.
type File struct {
	path      string
	format    triplets.Format
	arguments string

	// Resume sets these.
	data  *os.File // locked; nil: not opened
	state checkpoint
	saved time.Time // when the checkpoint was last written
}

// NewFile returns an output into a file. The arguments name the replay: a replay with other arguments does
// not go on with its progress. Close unlocks the file.
func NewFile(path string, format triplets.Format, arguments string) *File {
	return &File{path: path, format: format, arguments: arguments}
}

// checkpoint is the content of .NAME.replay.json, from which a killed replay goes on.
type checkpoint struct {
	Arguments string   `json:"arguments"`
	Plan      Plan     `json:"plan"`
	Progress  Progress `json:"progress"`
	Size      int64    `json:"size"` // bytes of the data that belong to the progress
}

// partial returns the name of the file with the data of an unfinished replay.
func (o *File) partial() string {
	return filepath.Join(filepath.Dir(o.path), "."+filepath.Base(o.path)+".replay")
}

// notes returns the name of the file with the checkpoint.
func (o *File) notes() string { return o.partial() + ".json" }

// Resume implements Output. It locks the data, so that no other replay writes into the same file.
func (o *File) Resume(_ context.Context, anew bool) (*Plan, Progress, error) {
	var none Progress
	if err := o.lock(); err != nil {
		return nil, none, err
	}
	raw, err := os.ReadFile(o.notes())
	if anew || errors.Is(err, fs.ErrNotExist) {
		return nil, none, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &o.state)
	}
	if err != nil {
		return nil, none, fmt.Errorf("%s, where a replay has left its progress, cannot be read: %w; --restart begins anew", o.notes(), err)
	}
	if o.state.Arguments != o.arguments {
		return nil, none, fmt.Errorf("a replay into %s is unfinished that had other arguments (%s): start it with those to finish it, or with --restart to forget it",
			o.path, o.state.Arguments)
	}
	info, err := o.data.Stat()
	if err != nil {
		return nil, none, err
	}
	if o.state.Progress.Done { // killed before the rename, or after it. After it the data that lock has opened are a new, empty file
		if info.Size() == o.state.Size {
			err = os.Rename(o.partial(), o.path)
		}
		return &o.state.Plan, o.state.Progress, err
	}
	if info.Size() < o.state.Size {
		return nil, none, fmt.Errorf("%s has %d bytes, and %d belong to the progress of an unfinished replay: --restart begins it anew", o.partial(), info.Size(), o.state.Size)
	}
	return &o.state.Plan, o.state.Progress, o.cut(o.state.Size)
}

// lock opens the data and locks them. It returns an error if another replay has locked them.
func (o *File) lock() error {
	if info, err := os.Stat(o.path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file that could be replaced", o.path)
	}
	for {
		data, err := filelock.Open(o.partial())
		if errors.Is(err, filelock.ErrLocked) {
			return fmt.Errorf("another replay into %s is under way", o.path)
		}
		if err != nil {
			return fmt.Errorf("cannot lock %s: %w", o.partial(), err)
		}
		// A replay that ended in between may have renamed the file that was opened. Then lock opens the new
		// one.
		locked, err := data.Stat()
		if err != nil {
			data.Close()
			return err
		}
		if there, err := os.Stat(o.partial()); err == nil && os.SameFile(locked, there) {
			o.data = data
			return nil
		}
		data.Close()
	}
}

// cut shortens the data to a size, to drop what was written after the last checkpoint.
func (o *File) cut(size int64) error {
	if err := o.data.Truncate(size); err != nil {
		return err
	}
	_, err := o.data.Seek(size, io.SeekStart)
	return err
}

// Begin implements Output.
func (o *File) Begin(_ context.Context, plan Plan) error {
	o.state = checkpoint{Arguments: o.arguments, Plan: plan}
	return errors.Join(o.cut(0), o.save())
}

// Write implements Output. The progress becomes durable at the next checkpoint. At the end the data get their
// final name.
func (o *File) Write(_ context.Context, outputs []stream.Output, progress Progress) error {
	v, err := triplets.Of(outputs)
	if err != nil {
		return err
	}
	var lines bytes.Buffer
	if err := o.format(&lines, v); err != nil {
		return err
	}
	n, err := o.data.Write(lines.Bytes())
	if err != nil {
		return err
	}
	o.state.Size, o.state.Progress = o.state.Size+int64(n), progress
	if !progress.Done && time.Since(o.saved) < checkpointEvery {
		return nil
	}
	if err := o.save(); err != nil || !progress.Done {
		return err
	}
	return os.Rename(o.partial(), o.path)
}

// save makes the data durable, and then replaces the checkpoint. A kill in between leaves a file with the
// suffix .new. The next save replaces it, and there is at least one more save before the end.
func (o *File) save() error {
	raw, err := json.Marshal(o.state)
	if err != nil {
		return err
	}
	if err := o.data.Sync(); err != nil {
		return err
	}
	o.saved = time.Now()
	next := o.notes() + ".new"
	if err := os.WriteFile(next, append(raw, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, o.notes())
}

// Forget implements Output: it removes the checkpoint. The data have their final name by now.
func (o *File) Forget(context.Context) error { return os.Remove(o.notes()) }

// Close unlocks the data. It removes the data of a replay that never began, unless they are the data of
// another replay by now.
func (o *File) Close() {
	if o.data == nil {
		return
	}
	if _, err := os.Stat(o.notes()); errors.Is(err, fs.ErrNotExist) {
		own, err := o.data.Stat()
		if there, missing := os.Stat(o.partial()); err == nil && missing == nil && os.SameFile(own, there) {
			_ = os.Remove(o.partial())
		}
	}
	o.data.Close()
}
