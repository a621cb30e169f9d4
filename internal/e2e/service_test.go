package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// addresses is the content of addresses.json.
type addresses struct {
	Kafka  string `json:"kafka"`
	Qdrant string `json:"qdrant"`
	HTTP   string `json:"http"`
}

func (a addresses) url(path string) string {
	if strings.Contains(a.HTTP, "://") {
		return strings.TrimSuffix(a.HTTP, "/") + path
	}
	return "http://" + a.HTTP + path
}

// service is a running `hardneg run`.
type service struct {
	t       testing.TB
	dir     string // --data-dir
	args    []string
	command *exec.Cmd
	exited  chan error // the result of Wait
	log     *os.File   // stderr of all its processes
	addresses
}

// newService describes a service. spawn starts it.
func newService(t testing.TB, args ...string) *service {
	t.Helper()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "stderr.log"))
	if err != nil {
		t.Fatal(err)
	}
	s := &service{t: t, dir: filepath.Join(dir, "data"), args: args, log: log}
	t.Cleanup(func() {
		s.kill()
		if raw, err := os.ReadFile(log.Name()); err != nil || bytes.Contains(raw, []byte("DATA RACE")) || bytes.Contains(raw, []byte("panic: ")) {
			t.Errorf("a data race or a panic in the service (%v): %s", err, raw)
		}
		if t.Failed() {
			t.Logf("the end of the service's log:\n%s", s.logTail(6000))
		}
		log.Close()
	})
	return s
}

// spawn starts the process and waits for its addresses. The sweep is off, because it would repair what a
// look-up missed.
func (s *service) spawn() {
	s.t.Helper()
	file := filepath.Join(s.dir, "addresses.json")
	os.Remove(file)
	args := append([]string{"run", "--data-dir", s.dir, "--set", "http.address=127.0.0.1:0", "--set", "sweep.rate=0"}, s.args...)
	s.command = exec.Command(mustProgram(s.t), args...)
	s.command.Stdout, s.command.Stderr = s.log, s.log
	s.command.Env = environment()
	if err := s.command.Start(); err != nil {
		s.t.Fatal(err)
	}
	exited, command := make(chan error, 1), s.command
	s.exited = exited
	go func() { exited <- command.Wait() }()
	s.eventually(patience, "addresses.json", func() error {
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return json.Unmarshal(raw, &s.addresses)
	})
}

// ready waits for /readyz.
func (s *service) ready(most time.Duration) {
	s.t.Helper()
	s.eventually(most, "/readyz", func() error {
		response, err := http.Get(s.url("/readyz"))
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", response.Status, body)
		}
		return nil
	})
}

// eventually repeats a check until it passes, the time is over, or the process ends.
func (s *service) eventually(most time.Duration, what string, check func() error) {
	s.t.Helper()
	deadline := time.Now().Add(most)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case end := <-s.exited:
			s.exited <- end
			s.t.Fatalf("the service ended (%v) before %s: %v\n%s", end, what, err, s.logTail(3000))
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("no %s within %v: %v", what, most, err)
		}
	}
}

// kill ends the process like a crash.
func (s *service) kill() {
	if s.command == nil {
		return
	}
	_ = s.command.Process.Kill()
	<-s.exited
	s.command = nil
}

// stop interrupts the process and expects it to end cleanly.
func (s *service) stop() {
	s.t.Helper()
	s.end(syscall.SIGINT)
}

// end sends the process SIGINT or SIGTERM and expects it to end cleanly.
func (s *service) end(by syscall.Signal) {
	s.t.Helper()
	if err := s.command.Process.Signal(by); err != nil {
		s.t.Fatal(err)
	}
	select {
	case err := <-s.exited:
		if err != nil {
			s.t.Errorf("the interrupted service ended with %v, want exit code 0", err)
		}
	case <-time.After(patience):
		s.t.Errorf("the interrupted service was still running after %v", patience)
		_ = s.command.Process.Kill()
		<-s.exited
	}
	s.command = nil
}

func (s *service) logTail(most int) string {
	raw, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-most):])
}

// environment returns this process's environment without settings of hardneg, which would change the expected
// results.
func environment() []string {
	var env []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "HARDNEG_") {
			env = append(env, variable)
		}
	}
	return env
}

// outcome of a command that ran to its end.
type outcome struct {
	code           int
	stdout, stderr string
}

// hardneg runs the program with arguments until it ends.
func hardneg(t testing.TB, most time.Duration, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(ctx, mustProgram(t), args...)
	command.Stdout, command.Stderr = &stdout, &stderr
	command.Env = environment()
	err := command.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || ctx.Err() != nil) {
		t.Fatalf("hardneg %s: %v %v\n%s", strings.Join(args, " "), err, ctx.Err(), stderr.String())
	} else if ok {
		return outcome{exit.ExitCode(), stdout.String(), stderr.String()}
	}
	return outcome{0, stdout.String(), stderr.String()}
}

// load runs `hardneg load` against the service.
func (s *service) load(args ...string) {
	s.t.Helper()
	out := hardneg(s.t, patience, append([]string{"load", "--data-dir", s.dir}, args...)...)
	if out.code != 0 {
		s.t.Fatalf("hardneg load %s: exit code %d\n%s", strings.Join(args, " "), out.code, out.stderr)
	}
}
