package main

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
	"hardneg/internal/pipeline"
	"hardneg/internal/records"
	"hardneg/stream"
)

// checkpointEvery is how often the progress of a file is saved. After a kill, a replay mines again what
// came since.
const checkpointEvery = 500 * time.Millisecond

// replayFile is a file that gets the triplets of a replay. Until the end they are in the file .NAME.replay
// in the same folder, and .NAME.replay.json says up to which byte they belong to the saved progress.
type replayFile struct {
	path      string
	format    func(io.Writer, view) error
	arguments string

	data  *os.File // locked
	state checkpoint
	saved time.Time
}

// checkpoint is the content of .NAME.replay.json, by which the next call goes on with a replay that was killed.
type checkpoint struct {
	Arguments string                  `json:"arguments"`
	Plan      pipeline.ReplayPlan     `json:"plan"`
	Progress  pipeline.ReplayProgress `json:"progress"`
	Size      int64                   `json:"size"` // bytes of the data that belong to the progress
}

func (o *replayFile) partial() string {
	return filepath.Join(filepath.Dir(o.path), "."+filepath.Base(o.path)+".replay")
}

func (o *replayFile) notes() string { return o.partial() + ".json" }

func (o *replayFile) Resume(_ context.Context, anew bool) (*pipeline.ReplayPlan, pipeline.ReplayProgress, error) {
	var none pipeline.ReplayProgress
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
	if o.state.Progress.Done {
		// It was killed shortly before the data got their name, or shortly after. In the second case lock
		// has made a new, empty file.
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

// lock opens the data file, and locks it, so that no other replay writes into it.
func (o *replayFile) lock() error {
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
		// A replay that ended a moment ago has renamed the file that was opened here: then there is another
		// one to lock.
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

// cut drops the data behind the last checkpoint.
func (o *replayFile) cut(size int64) error {
	if err := o.data.Truncate(size); err != nil {
		return err
	}
	_, err := o.data.Seek(size, io.SeekStart)
	return err
}

func (o *replayFile) Begin(_ context.Context, plan pipeline.ReplayPlan) error {
	o.state = checkpoint{Arguments: o.arguments, Plan: plan}
	return errors.Join(o.cut(0), o.save())
}

func (o *replayFile) Write(_ context.Context, outputs []stream.Output, progress pipeline.ReplayProgress) error {
	var v view
	for _, out := range outputs {
		if out.Value == nil { // an empty slot
			continue
		}
		entry := viewed{value: out.Value}
		var err error
		if entry.query, entry.positive, entry.rank, err = records.ParseTripletKey(out.Key); err != nil {
			return err
		}
		v = append(v, entry)
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

// save first makes the data durable, and then replaces the checkpoint, so the checkpoint never counts bytes
// that a crash could take away. A kill in between leaves a file .new, which the next save replaces: one
// always comes before the end.
func (o *replayFile) save() error {
	raw, err := json.Marshal(o.state)
	if err != nil {
		return err
	}
	if err := o.data.Sync(); err != nil {
		return err
	}
	o.saved = time.Now()
	next := o.notes() + ".new"
	if err := os.WriteFile(next, append(raw, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(next, o.notes())
}

// Forget removes the checkpoint: the data have their final name by now.
func (o *replayFile) Forget(context.Context) error { return os.Remove(o.notes()) }

// close unlocks the data file. It removes the file if the replay never began, unless another replay has
// made a new one by now.
func (o *replayFile) close() {
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
