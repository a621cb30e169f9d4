package batches_test

import (
	"errors"
	"fmt"
	"testing"

	"hardneg/internal/batches"
)

func TestEach(t *testing.T) {
	failed := errors.New("failed")
	for _, test := range []struct {
		items  int
		scan   error // after the last item
		use    int   // the batch whose use fails, from 1; 0: none
		want   string
		failed bool
	}{
		{items: 0, want: "[]"},
		{items: 2, want: "[[0 1]]"},
		{items: 3, want: "[[0 1 2]]"},
		{items: 7, want: "[[0 1 2] [3 4 5] [6]]"},
		{items: 7, scan: failed, want: "[[0 1 2] [3 4 5]]", failed: true},
		{items: 7, use: 1, want: "[[0 1 2]]", failed: true},
		{items: 7, use: 3, want: "[[0 1 2] [3 4 5] [6]]", failed: true},
	} {
		var used [][]int // keeps the slices: no batch may overwrite an earlier one
		err := batches.Each(3, func(add func(int) error) error {
			for i := range test.items {
				if err := add(i); err != nil {
					return err
				}
			}
			return test.scan
		}, func(batch []int) error {
			if used = append(used, batch); len(used) == test.use {
				return failed
			}
			return nil
		})
		if got := fmt.Sprint(used); got != test.want || errors.Is(err, failed) != test.failed || (err != nil) != test.failed {
			t.Errorf("%+v: %s, %v", test, got, err)
		}
	}
}
