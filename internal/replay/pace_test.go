package replay

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestPace checks that the rate is never higher than asked for, even after a pause.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pace{rate: 100, start: time.Now()}
		begin := time.Now()
		for i, after := range []time.Duration{0, 0, time.Second, 0, 0} {
			time.Sleep(after) // the time that the last queries took
			if err := p.wait(t.Context(), 10); err != nil {
				t.Fatal(err)
			}
			want := []time.Duration{0, 100, 1100, 1200, 1300}[i] * time.Millisecond
			if at := time.Since(begin); at != want {
				t.Errorf("number %d begins after %v, want %v", i, at, want)
			}
		}
	})
}
