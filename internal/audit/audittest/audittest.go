// Package audittest audits the small world of package pipelinetest, for tests of other packages.
package audittest

import (
	"hardneg/internal/audit"
	"hardneg/internal/pipelinetest"
)

// Run audits all queries of a world.
func Run(w *pipelinetest.World) *audit.Report {
	w.T.Helper()
	report, err := audit.Run(w.T.Context(), audit.Options{Conn: w.Conn()})
	if err != nil {
		w.T.Fatal(err)
	}
	return report
}

// Clean fails the test if an audit finds a difference, or looks at nothing.
func Clean(w *pipelinetest.World, when string) {
	w.T.Helper()
	r := Run(w)
	if len(r.Differences) > 0 || r.Slots == 0 || r.Triplets != r.Slots || r.Behind != 0 {
		w.T.Errorf("%s: the audit finds %d slots, %d triplets, %d records behind, and differences\n%+v", when, r.Slots, r.Triplets, r.Behind, r.Differences)
	}
}
