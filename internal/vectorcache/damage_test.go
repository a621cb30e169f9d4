package vectorcache

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestDamage truncates files and changes bytes at random positions, while the cache is closed and while it is
// open. A vector is never wrong, everything before the damage is found, and the cache goes on working.
func TestDamage(t *testing.T) {
	random := seeded(t)
	lost, kept := 0, 0
	all := make([]int, 600)
	for n := range all {
		all[n] = n
	}
	for range 60 {
		path := t.TempDir()
		most := int64(20_000 + random.IntN(100_000))
		c, _ := open(t, path, most)
		numbers := random.Perm(600)
		for len(numbers) > 0 {
			n := min(len(numbers), 1+random.IntN(30))
			put(c, numbers[:n]...)
			numbers = numbers[n:]
		}
		for range 1 + random.IntN(3) {
			damage(t, random, path)
		}
		reopened := random.IntN(2) == 0
		if reopened {
			_ = c.Close()
			c, _ = open(t, path, most)
		}
		for range 3 {
			for _, found := range get(t, c, all...) {
				if found {
					kept++
				} else {
					lost++
				}
			}
			put(c, random.IntN(600))
			if now := size(t, path); now > most {
				t.Fatalf("%d bytes, at most %d", now, most)
			}
			if len(files(t, path, "*"+asideSuffix)) > 1 {
				t.Fatalf("%v: want one at most", files(t, path, "*"))
			}
		}
		put(c, 10_000, 10_001)
		other, log := open(t, path, most)
		if found := get(t, other, 10_000, 10_001); !found[0] || !found[1] {
			t.Fatalf("found %v of what was put after the damage; log %s", found, log)
		}
		_, log = open(t, path, most)
		if log.Len() > 0 {
			t.Fatalf("damage is told again: %s", log)
		}
	}
	t.Logf("%d found, %d not", kept, lost)
	if kept < lost {
		t.Errorf("%d found, %d not: too much is lost with a few bytes", kept, lost)
	}
}

// damage truncates a segment, or changes, adds or clears bytes in it.
func damage(t *testing.T, random *rand.Rand, path string) {
	t.Helper()
	names := files(t, path, "*"+segmentSuffix)
	name := names[random.IntN(len(names))]
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) == 0 {
		return
	}
	at := random.IntN(len(data))
	switch random.IntN(6) {
	case 0:
		if err := os.Truncate(name, int64(at)); err != nil {
			t.Fatal(err)
		}
		return
	case 1:
		data[at] ^= 1 << random.IntN(8)
	case 2:
		clear(data[at:]) // as after a power failure
	case 3:
		clear(data[at:min(len(data), at+512)])
	case 4:
		data = append(data, make([]byte, 1+random.IntN(5000))...)
	case 5:
		for i := range min(len(data)-at, 100) {
			data[at+i] = byte(random.Uint32())
		}
	}
	file, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSetAside: wherever the damage in a file is, its intact records are kept in another file, and one log
// line says so.
func TestSetAside(t *testing.T) {
	for _, test := range []struct {
		name   string
		number int // number of the lost record, from 1
		damage func(data []byte, at int) []byte
	}{
		{"a value", 3, func(data []byte, at int) []byte { data[at+header] ^= 1; return data }},
		{"a magic", 3, func(data []byte, at int) []byte { data[at] ^= 1; return data }},
		{"a length, too long", 3, func(data []byte, at int) []byte { data[at+countAt+1] ^= 0x80; return data }},
		{"a length, too short", 3, func(data []byte, at int) []byte { data[at+countAt] = 1; return data }},
		{"zeros", 3, func(data []byte, at int) []byte { clear(data[at : at+header]); return data }},
		{"the first", 1, func(data []byte, at int) []byte { data[at+1] ^= 1; return data }},
		{"the last", 5, func(data []byte, at int) []byte { data[at+header] ^= 1; return data }},
		{"zeros at the end", 5, func(data []byte, at int) []byte { clear(data[at:]); return data }},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := t.TempDir()
			c, _ := open(t, path, 1<<20)
			put(c, 1, 2, 3, 4, 5)
			_ = c.Close()
			name := files(t, path, "*"+segmentSuffix)[0]
			data, _ := os.ReadFile(name)
			at := 0
			for range test.number - 1 {
				at += recordLength(recordValues(data[at:]))
			}
			data = test.damage(data, at)
			if err := os.WriteFile(name, data, 0o644); err != nil {
				t.Fatal(err)
			}
			c, log := open(t, path, 1<<20)
			for i, found := range get(t, c, 1, 2, 3, 4, 5) {
				if found == (i+1 == test.number) {
					t.Errorf("%d is there: %v", i+1, found)
				}
			}
			aside := files(t, path, "*"+asideSuffix)
			if len(aside) != 1 || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), aside[0]) || !strings.Contains(log.String(), `"kept":4`) {
				t.Fatalf("%v set aside, log %s", aside, log)
			}
			if got, err := os.ReadFile(aside[0]); err != nil || string(got) != string(data) {
				t.Errorf("the file that was set aside is not what was found (%v)", err)
			}
		})
	}
}

// TestTornTail: an incomplete last record, left by a killed writer, is no damage. The next record overwrites
// it.
func TestTornTail(t *testing.T) {
	path := t.TempDir()
	c, _ := open(t, path, 1<<20)
	put(c, 1)
	_ = c.Close()
	name := files(t, path, "*"+segmentSuffix)[0]
	file, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	torn := appendRecord(nil, keyOf(2), make([]float32, 1000)) // longer than the record that is put over it
	if _, err := file.Write(torn[:len(torn)-1]); err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	c, log := open(t, path, 1<<20)
	put(c, 3)
	if found := get(t, c, 1, 2, 3); !found[0] || found[1] || !found[2] || log.Len() > 0 {
		t.Errorf("found %v, log %s", found, log)
	}
	whole := recordLength(len(vectorOf(1))) + recordLength(len(vectorOf(3)))
	if names := files(t, path, "*"+segmentSuffix); len(names) != 1 || size(t, path) != int64(whole) {
		t.Errorf("%d bytes in %v, want %d in one file", size(t, path), names, whole)
	}
}

// TestUnfinishedWrite: an unfinished write of another process does not count as damage while reading, and its
// record is found once it is complete.
func TestUnfinishedWrite(t *testing.T) {
	path := t.TempDir()
	c, log := open(t, path, 1<<20)
	put(c, 1)
	name := files(t, path, "*"+segmentSuffix)[0]
	record := appendRecord(nil, keyOf(2), vectorOf(2))
	unfinished := append(make([]byte, header), record[header:]...)
	for _, bytes := range [][]byte{unfinished, record} {
		file, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(bytes, int64(recordLength(len(vectorOf(1))))); err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		if found := get(t, c, 1, 2)[1]; found != (&bytes[0] == &record[0]) || log.Len() > 0 || len(files(t, path, "*"+asideSuffix)) > 0 {
			t.Errorf("found %v, files %v, log %s", found, files(t, path, "*"), log)
		}
	}
}

// TestShrunk: a file that is truncated under an open cache is set aside before anything is written beyond its
// end.
func TestShrunk(t *testing.T) {
	path := t.TempDir()
	c, log := open(t, path, 1<<20)
	put(c, 1, 2)
	if err := os.Truncate(files(t, path, "*"+segmentSuffix)[0], int64(recordLength(len(vectorOf(1)))+1)); err != nil {
		t.Fatal(err)
	}
	put(c, 3)
	if log.Len() == 0 {
		t.Error("nothing was told")
	}
	c, log = open(t, path, 1<<20)
	if found := get(t, c, 1, 2, 3); !found[0] || found[1] || !found[2] || log.Len() > 0 {
		t.Errorf("found %v, log %s", found, log)
	}
}

const childEnv = "HARDNEG_TEST_CACHE"

// Numbers that a child puts, and a cache limit with room for all of them, or for a few thousand.
const (
	killNumbers = 1_000_000
	killRoomy   = 1 << 30
	killTight   = 2_000_000
)

// TestChild is not a test by itself: TestKill runs it in processes that put vectors until they are killed. It
// prints what it has put.
func TestChild(t *testing.T) {
	path := os.Getenv(childEnv)
	if path == "" {
		t.Skip("TestKill runs it")
	}
	most := int64(killTight)
	if strings.HasSuffix(path, "roomy") {
		most = killRoomy
	}
	random := rand.New(rand.NewPCG(rand.Uint64(), 1))
	c, _ := open(t, path, most)
	c.patience = time.Minute // the machine may be busy
	for {
		numbers := make([]int, 1+random.IntN(2000)) // long writes are cut in the middle
		for i := range numbers {
			numbers[i] = random.IntN(killNumbers)
		}
		put(c, numbers...)
		get(t, c, numbers...)
		if _, err := os.Stdout.WriteString(strings.Trim(fmt.Sprint(numbers), "[]") + "\n"); err != nil {
			return
		}
	}
}

// TestKill kills processes that write to one directory, at random moments. Afterwards the cache is usable: if
// there is room, everything that they reported is there. No vector is wrong, the limit holds, and nothing
// counts as damaged.
func TestKill(t *testing.T) {
	random := seeded(t)
	for _, test := range []struct {
		name string
		most int64
	}{{"roomy", killRoomy}, {"tight", killTight}} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), test.name)
			reported := map[int]bool{}
			for range 4 {
				runAndKill(t, random, path, reported)
				c, log := open(t, path, test.most)
				torn := int64(0)
				for _, s := range c.segments {
					torn += s.size - s.indexed
				}
				numbers := slices.Sorted(maps.Keys(reported))
				missing := 0
				for _, found := range get(t, c, numbers...) {
					if !found {
						missing++
					}
				}
				if missing > 0 && test.most == killRoomy {
					t.Errorf("%d of %d that were put are not there", missing, len(numbers))
				}
				put(c, killNumbers+1)
				if found := get(t, c, killNumbers+1); !found[0] || size(t, path) > test.most || log.Len() > 0 {
					t.Errorf("found %v, %d bytes, log %s", found, size(t, path), log)
				}
				t.Logf("%d put, %d not there; %d bytes torn", len(numbers), missing, torn)
				_ = c.Close()
			}
		})
	}
}

// output collects what a process writes, and signals the first write.
type output struct {
	strings.Builder
	begun chan struct{}
	once  sync.Once
}

func (o *output) Write(p []byte) (int, error) {
	o.once.Do(func() { close(o.begun) })
	return o.Builder.Write(p)
}

// runAndKill runs two children, kills them, and records the numbers that they reported.
func runAndKill(t *testing.T, random *rand.Rand, path string, reported map[int]bool) {
	t.Helper()
	var children [2]struct {
		*exec.Cmd
		out output
	}
	for i := range children {
		child := &children[i]
		child.Cmd = exec.Command(os.Args[0], "-test.run=^TestChild$")
		child.Env = append(os.Environ(), childEnv+"="+path)
		child.out.begun = make(chan struct{})
		child.Stdout = &child.out
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
	}
	<-children[0].out.begun
	time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond) // waits for nothing: any moment will do
	for i := range children {
		_ = children[i].Process.Kill()
	}
	for i := range children {
		err := children[i].Wait()
		out := children[i].out.String()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != -1 || strings.Contains(out, "FAIL") {
			t.Fatalf("a child ended with %v: %s", err, out)
		}
		out = out[:strings.LastIndexByte(out, '\n')+1]
		for _, word := range strings.Fields(out) {
			n, err := strconv.Atoi(word)
			if err != nil {
				t.Fatalf("a child said %q", out)
			}
			reported[n] = true
		}
	}
}
