// Package kafka runs a Kafka broker inside the process, for trying hardneg and for tests: franz-go's kfake
// with a data directory.
//
// It has one node, no replication and no security. Acknowledged records survive when the process is killed,
// but not when the machine fails. If the process is killed during a commit that covers several partitions,
// only some of them may be committed; a real broker's transaction log prevents that.
//
// internal/service starts it, and so do the tests of stream and, through internal/testenv, of many others.
package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"hardneg/internal/embedded/fault"
	"hardneg/internal/filelock"
)

// Config says where to listen and where to keep the log.
type Config struct {
	Address string // host:port; port 0 means any free port
	Dir     string // created if missing; one process at a time
	Log     zerolog.Logger
	Faults  *fault.Plan // calls that fail, for tests; nil means none. Calls are named "Produce", "EndTxn" and so on

	cleanEvery time.Duration // for tests; 0 means once an hour
}

// Server is a running broker.
type Server struct {
	cluster *kfake.Cluster
	gate    *gate
	client  *kgo.Client // in-process
	watched sync.WaitGroup

	background context.CancelFunc // ends what watched waits for

	lock    *os.File
	running string // this file exists while the broker runs, so that the next start notices a kill
	logDir  string // kfake's folder

	bounds   *bounds
	kept     keptSegments
	cleaning chan struct{}        // holds an element while a cleaning is due
	keyless  []*kfake.FaultHandle // of the Produce request before
	log      zerolog.Logger
	once     sync.Once
}

const startTimeout = 5 * time.Minute // the repair reads the whole log

// Start starts the broker. If the process was killed before, Start first aborts every transaction that was
// open then. Only after that can clients connect.
func Start(cfg Config) (*Server, error) {
	host, _, err := net.SplitHostPort(cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("embedded Kafka: address %q: want host:port: %w", cfg.Address, err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded Kafka: %w", err)
	}
	lock, err := filelock.Open(filepath.Join(cfg.Dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("embedded Kafka: data directory %s is in use by another process: %w", cfg.Dir, err)
	}
	s := &Server{
		lock: lock, running: filepath.Join(cfg.Dir, "running"), logDir: filepath.Join(cfg.Dir, "log"), log: cfg.Log,
		kept: keptSegments(filepath.Join(cfg.Dir, "compacting")), cleaning: make(chan struct{}, 1),
	}
	if err := s.start(cfg, host); err != nil {
		s.release()
		return nil, fmt.Errorf("embedded Kafka: %w", err)
	}
	return s, nil
}

func (s *Server) start(cfg Config, host string) error {
	_, err := os.Stat(s.running)
	killed := err == nil
	listener, err := net.Listen("tcp", cfg.Address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("address %s is in use by another program: choose another port, or 0 for any: %w", cfg.Address, err)
	}
	if err != nil {
		return err
	}
	s.gate = newGate(listener, host)
	if err := os.WriteFile(s.running, nil, 0o600); err != nil {
		return err
	}
	if err := s.kept.restore(s.logDir); err != nil {
		return fmt.Errorf("restoring what was being compacted: %w", err)
	}
	if s.bounds, err = readBounds(filepath.Join(cfg.Dir, "bounds.json")); err != nil {
		return err
	}
	if err := s.bounds.restore(s.logDir); err != nil {
		return fmt.Errorf("restoring the ends of logs: %w", err)
	}
	if s.cluster, err = kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.DataDir(s.logDir),
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": never}),
		kfake.ListenFn(func(_, _ string) (net.Listener, error) { return s.gate, nil }),
		kfake.WithLogger(logger{cfg.Log}),
		kfake.DefaultNumPartitions(1),
	); err != nil {
		return fmt.Errorf("opening %s: %w", cfg.Dir, err)
	}
	if s.client, err = kgo.NewClient(
		kgo.SeedBrokers(s.Addr()), kgo.Dialer(s.gate.dial),
		kgo.MaxVersions(kversion.V3_0_0()), // up to this version a fetch names its topics; later versions use ids
	); err != nil {
		return err
	}
	if killed {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		n, err := endOpenTransactions(ctx, s.client)
		if err != nil {
			return fmt.Errorf("repairing the log after the process was killed: %w", err)
		}
		s.log.Info().Int("aborted", n).Msg("embedded Kafka was not stopped properly: its log is repaired")
	}
	s.bounds.cluster = s.cluster
	s.cluster.ControlKey(kmsg.DeleteRecords.Int16(), s.beforeDeleteRecords)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := s.deleteRecords(ctx, s.bounds.deletions()); err != nil {
		return fmt.Errorf("restoring the starts of logs: %w", err)
	}
	s.cluster.ControlKey(kmsg.Produce.Int16(), s.beforeProduce)
	members := &members{client: s.client, log: s.log, groups: map[string]*groupMembers{}}
	s.cluster.Control(members.onRequest)
	s.cluster.ControlKey(kmsg.DeleteGroups.Int16(), s.beforeDeleteGroups)
	background, stop := context.WithCancel(context.Background())
	s.background = stop
	s.watched.Go(func() { members.watch(background) })
	s.watched.Go(func() { s.cleanUntil(background, cmp.Or(cfg.cleanEvery, cleanEvery)) })
	if cfg.Faults != nil {
		s.gate.faults = newFaults(cfg.Faults, s.cluster, s.gate.closed, cfg.Log)
	}
	s.gate.open()
	return nil
}

// Addr returns the host:port to connect to.
func (s *Server) Addr() string { return s.gate.Addr().String() }

// Close disconnects the clients, aborts open transactions, and writes everything else to disk.
func (s *Server) Close() error {
	var err error
	s.once.Do(func() {
		s.gate.closePublic()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		// kfake would store open transactions in a file, which it deletes at its next start. If it were
		// killed after that, these transactions would look committed.
		if err = abortOpenTransactions(ctx, s.client); err != nil {
			err = fmt.Errorf("embedded Kafka: aborting open transactions: %w", err)
		}
		s.release()
		if err == nil {
			err = os.Remove(s.running)
		}
		_ = s.lock.Close()
	})
	return err
}

// release stops everything that runs.
func (s *Server) release() {
	if s.background != nil {
		s.background()
		s.watched.Wait()
	}
	if s.client != nil {
		s.client.Close()
	}
	if s.cluster != nil {
		s.cluster.Close()
	}
	if s.gate != nil {
		_ = s.gate.Close()
	}
}

// logger passes on kfake's warnings and errors.
type logger struct{ zerolog.Logger }

func (l logger) Logf(level kfake.LogLevel, format string, args ...any) {
	var e *zerolog.Event
	switch level {
	case kfake.LogLevelError:
		e = l.Error()
	case kfake.LogLevelWarn:
		e = l.Warn()
	default:
		return // one line for each request
	}
	e.Str("component", "embedded Kafka").Msg(strings.TrimSpace(fmt.Sprintf(format, args...)))
}
