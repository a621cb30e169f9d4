package pipeline_test

import (
	"fmt"
	"testing"
	"time"

	"hardneg/internal/pipelinetest"
	"hardneg/internal/testenv"
)

func TestViewConverges(t *testing.T) {
	seed := testenv.Seed(t)
	w := pipelinetest.New(t, seed)
	for range 40 {
		w.Step()
	}
	stop := w.Instance()
	w.Settle()
	w.Compare("after the first load")
	for round := 0; round < 6 || round < 30 && len(w.Want()) < 5; round++ {
		var second func()
		if round%2 == 1 {
			second = w.Instance()
		}
		for range 60 {
			w.Step()
			if w.Rng.IntN(20) == 0 {
				time.Sleep(time.Duration(w.Rng.IntN(30)) * time.Millisecond)
			}
		}
		if second != nil {
			stop()
			stop = second
		}
		w.Settle()
		w.Compare(fmt.Sprintf("after round %d", round))
	}
	stop()
	if len(w.Want()) < 5 {
		t.Fatal("the history ended nearly empty: nothing was tested")
	}
}
