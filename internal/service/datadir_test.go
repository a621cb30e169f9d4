package service

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"hardneg/internal/config"
	"hardneg/internal/telemetry"
)

// Nobody but the user may read what the service writes into its data directory. The log of the embedded Kafka is
// written by kfake, whose files are shut off by the folder above.
func TestDataIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	d, err := openDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	c.DataDir = dir
	end, err := startEmbedded(Options{Config: c, Log: zerolog.Nop()}, dir)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := OpenCache(c, zerolog.Nop(), telemetry.NewMetrics(prometheus.NewRegistry()))
	if err != nil {
		t.Fatal(err)
	}
	if err := (Addresses{}).write(dir); err != nil {
		t.Fatal(err)
	}
	files := 0
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == filepath.Join(dir, "kafka", "log") {
			return fs.SkipDir
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		want := os.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
		files++
		return nil
	})
	if err != nil || files < 8 {
		t.Errorf("%d files and folders, %v", files, err)
	}
	_ = cache.Close()
	end()
	if err := d.close(); err != nil {
		t.Error(err)
	}
}
