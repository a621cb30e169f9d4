// Package telemetry shows the state of a running process: its log, its metrics, its health, and the HTTP
// server for them. cmd/hardneg and the packages of internal use it.
package telemetry

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
)

// In zerolog the format of durations is global.
func init() { zerolog.DurationFieldFormat = zerolog.DurationFormatString }

// NewLog makes the process's log. Level is trace, debug, info, warn or error; format is console or json.
func NewLog(w io.Writer, level, format string) (zerolog.Logger, error) {
	at, err := zerolog.ParseLevel(level)
	if err != nil || level == "" {
		return zerolog.Nop(), fmt.Errorf("log.level: %q is none of trace, debug, info, warn, error", level)
	}
	switch format {
	case "json":
	case "console":
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !terminal(w)}
	default:
		return zerolog.Nop(), fmt.Errorf("log.format: %q is none of console, json", format)
	}
	return zerolog.New(zerolog.SyncWriter(w)).Level(at).With().Timestamp().Logger(), nil
}

func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && isatty.IsTerminal(file.Fd()) && os.Getenv("NO_COLOR") == ""
}
