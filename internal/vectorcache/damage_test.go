package vectorcache

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestDamage truncates files and changes bytes at random places, between openings and under an open cache: never is a
// vector wrong, what lies before the damage is found, and the cache goes on taking and giving.
func TestDamage(t *testing.T) {
	random := seeded(t)
	lost, kept := 0, 0
	for range 150 {
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
			harm(t, random, path)
		}
		reopened := random.IntN(2) == 0
		if reopened {
			_ = c.Close()
			c, _ = open(t, path, most)
		}
		for range 3 {
			for n := range 600 {
				if get(t, c, n)[0] {
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

// harm truncates a segment, or changes, adds or clears bytes in it.
func harm(t *testing.T, random *rand.Rand, path string) {
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

// TestSetAside: of a damaged file the whole records are kept, in another one, and one line says so.
func TestSetAside(t *testing.T) {
	path := t.TempDir()
	c, _ := open(t, path, 1<<20)
	put(c, 1, 2, 3, 4, 5)
	_ = c.Close()
	name := files(t, path, "*"+segmentSuffix)[0]
	data, _ := os.ReadFile(name)
	at := 0
	for range 2 {
		at += recordLength(recordValues(data[at:]))
	}
	data[at+header] ^= 1 // a value of the third
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	c, log := open(t, path, 1<<20)
	found := get(t, c, 1, 2, 3, 4, 5)
	if !found[0] || !found[1] || found[2] || !found[3] || !found[4] {
		t.Errorf("found %v, want all but the third", found)
	}
	aside := files(t, path, "*"+asideSuffix)
	if len(aside) != 1 || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), aside[0]) || !strings.Contains(log.String(), `"kept":4`) {
		t.Errorf("%v set aside, log %s", aside, log)
	}
	if got, err := os.ReadFile(aside[0]); err != nil || string(got) != string(data) {
		t.Errorf("the file that was set aside is not what was found (%v)", err)
	}
}

// TestTornTail: what a killed writer left behind the last record is no damage, and goes with the next record.
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
	torn := appendRecord(nil, keyOf(2), vectorOf(2))
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

const childEnv = "HARDNEG_TEST_CACHE"

// TestChild is no test of its own: TestKill runs it in processes that put until they are killed. It prints what it has
// put.
func TestChild(t *testing.T) {
	path := os.Getenv(childEnv)
	if path == "" {
		t.Skip("TestKill runs it")
	}
	random := rand.New(rand.NewPCG(rand.Uint64(), 1))
	c, _ := open(t, path, 300_000)
	for {
		numbers := make([]int, 1+random.IntN(50))
		for i := range numbers {
			numbers[i] = random.IntN(20_000)
		}
		put(c, numbers...)
		if found := get(t, c, numbers[len(numbers)-1]); !found[0] {
			t.Errorf("%d is not there", numbers[len(numbers)-1])
		}
		if _, err := os.Stdout.WriteString("put " + strconv.Itoa(numbers[len(numbers)-1]) + "\n"); err != nil {
			return
		}
	}
}

// TestKill kills processes that write to one directory at random moments. Whatever they left is usable: the newest of
// what a process said that it put is there, no vector is wrong, the bound holds, and nothing counts as damaged.
func TestKill(t *testing.T) {
	path := t.TempDir()
	random := seeded(t)
	for round := range 8 {
		type child struct {
			command *exec.Cmd
			out     strings.Builder
		}
		children := make([]*child, 2)
		for i := range children {
			ch := &child{command: exec.Command(os.Args[0], "-test.run=^TestChild$")}
			ch.command.Env = append(os.Environ(), childEnv+"="+path)
			ch.command.Stdout = &ch.out
			if err := ch.command.Start(); err != nil {
				t.Fatal(err)
			}
			children[i] = ch
		}
		time.Sleep(time.Duration(50+random.IntN(300)) * time.Millisecond) // any moment will do
		for _, ch := range children {
			_ = ch.command.Process.Kill()
		}
		said := map[int]bool{}
		for _, ch := range children {
			err := ch.command.Wait()
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != -1 || strings.Contains(ch.out.String(), "FAIL") {
				t.Fatalf("the child ended with %v: %s", err, ch.out.String())
			}
			lines := strings.Split(ch.out.String(), "\n")
			for _, line := range lines[max(0, len(lines)-4) : len(lines)-1] { // the last may be torn
				n, err := strconv.Atoi(strings.TrimPrefix(line, "put "))
				if err != nil {
					t.Fatalf("%q", line)
				}
				said[n] = true
			}
		}
		c, log := open(t, path, 300_000)
		all := make([]int, 20_000)
		for n := range all {
			all[n] = n
		}
		count := 0
		for n, found := range get(t, c, all...) {
			if found {
				count++
			} else if said[n] {
				t.Errorf("round %d: %d was put last and is not there", round, n)
			}
		}
		put(c, 1, 2, 3)
		if now := size(t, path); now > 300_000 || log.Len() > 0 {
			t.Errorf("round %d: %d bytes, log %s", round, now, log)
		}
		t.Logf("round %d: %d vectors, %d of them put last", round, count, len(said))
		_ = c.Close()
	}
}
