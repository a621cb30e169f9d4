package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	_ "hardneg/internal/demo"
	_ "hardneg/internal/service"
)

var (
	long  = flag.Bool("long", os.Getenv("HARDNEG_LONG") == "1", "full sizes and 20 kills")
	kills = flag.Int("kills", 0, "random kills of the crash test, 0: 3, or 20 with -long")
	seed  = flag.Uint64("seed", environmentSeed(), "replay a run, 0: HARDNEG_TEST_SEED, or by the clock")

	schedules = flag.Int("schedules", 2, "crash schedules, one after the other")
	rolling   = flag.Bool("rolling", false, "measure the pauses of a rolling restart")
	longAudit = flag.Duration("long-audit", 4*time.Second, "how long TestLongAudit makes changes; above a minute on a whole collection")

	replaySpeed = flag.Bool("replay-speed", false, "measure a replay against live mining")
)

func environmentSeed() uint64 {
	s := os.Getenv("HARDNEG_TEST_SEED")
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("HARDNEG_TEST_SEED: %v", err))
	}
	return n
}

// patience is how long a test waits before it reports that something is missing. A passing test never waits
// so long, however busy the machine is.
const patience = 5 * time.Minute

// buildDir holds the program under test.
var buildDir string

// program builds the program under test, once, and returns its path. Go's cache of test results must notice
// changes of the program: this file imports the program's packages, and here it looks at the files of the
// command.
var program = sync.OnceValues(func() (string, error) {
	sources, err := filepath.Glob("../../cmd/hardneg/*.go")
	if err != nil {
		return "", err
	}
	for _, source := range sources {
		if _, err := os.ReadFile(source); err != nil {
			return "", err
		}
	}
	path := filepath.Join(buildDir, "hardneg")
	args := []string{"build", "-o", path}
	if os.Getenv("HARDNEG_TEST_RACE") == "1" {
		args = append(args, "-race")
	}
	args = append(args, "hardneg/cmd/hardneg")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if buildDir, err = os.MkdirTemp("", "hardneg-e2e"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(buildDir)
	return m.Run()
}

func mustProgram(t testing.TB) string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// seeded returns -seed, or a seed from the clock, and logs it.
func seeded(t testing.TB) uint64 {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("replay with -seed %d", s)
	return s
}

// random returns a generator with the seed of seeded.
func random(t testing.TB) *rand.Rand { return rand.New(rand.NewPCG(seeded(t), 1)) }
