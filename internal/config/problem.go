package config

import (
	"strings"
)

// Problem is one mistake in the configuration.
type Problem struct {
	Origin  string // FILE:LINE:COLUMN, an environment variable, "command line"; empty for a default, or the file as a whole
	Key     string // empty if the problem is not about one key
	Message string
}

// String returns one line.
func (p Problem) String() string {
	var parts []string
	for _, part := range []string{p.Origin, p.Key, p.Message} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ": ")
}

// Error lists all mistakes in the configuration.
type Error struct{ Problems []Problem }

// Error returns one line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func failure(problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	return &Error{problems}
}

// nearest returns the name that was probably meant, or "". It differs in at most a third of its letters.
func nearest(name string, known []string) string {
	best, least := "", len(name)+1
	for _, k := range known {
		within := max(1, len(k)/3)
		if abs(len(name)-len(k)) > within { // skips the costly distance for a long text from a broken file
			continue
		}
		if d := distance(strings.ToLower(name), k); d <= within && d < least {
			best, least = k, d
		}
	}
	return best
}

func abs(n int) int { return max(n, -n) }

// distance returns the number of letters to insert, delete, replace or swap with the next one that turns a
// into b (optimal string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
