package mining

import (
	"cmp"
	"math"
	"slices"
)

// NDCG is the normalised discounted cumulative gain of a ranking at cut-off k, from 0 to 1. ranked lists ids,
// the best first, and relevant gives the gain of each relevant document. The gain is linear, as in BEIR and
// trec_eval (ndcg_cut): Σ rel(i)/log2(i+1) over the ranks i from 1 to k, divided by the same sum over the
// ideal ranking of all relevant documents. The source is Järvelin and Kekäläinen, "Cumulated gain-based
// evaluation of IR techniques" (TOIS 2002), with Burges's discount. An id that is not in relevant has gain 0.
// An id that comes twice counts once. The result is 0 if nothing is relevant.
func NDCG(ranked []string, relevant map[string]float64, k int) float64 {
	gains := make([]float64, 0, len(relevant))
	for _, gain := range relevant {
		if gain > 0 {
			gains = append(gains, gain)
		}
	}
	slices.SortFunc(gains, func(a, b float64) int { return cmp.Compare(b, a) })
	var ideal float64
	for i, gain := range gains[:max(0, min(k, len(gains)))] {
		ideal += gain / math.Log2(float64(i+2))
	}
	if ideal == 0 {
		return 0
	}
	var sum float64
	seen := make(map[string]bool, min(k, len(ranked)))
	for i, id := range ranked[:min(k, len(ranked))] {
		if gain := relevant[id]; gain > 0 && !seen[id] {
			seen[id] = true
			sum += gain / math.Log2(float64(i+2))
		}
	}
	return sum / ideal
}

// ReciprocalRank is 1/r, where r is the rank of the first relevant document among the first k of a ranking.
// It is 0 if none of them is relevant. Its mean over queries is MRR@k (Voorhees, "The TREC-8 Question
// Answering Track Report", TREC 1999). A document is relevant if its gain is above 0.
func ReciprocalRank(ranked []string, relevant map[string]float64, k int) float64 {
	for i, id := range ranked[:max(0, min(k, len(ranked)))] {
		if relevant[id] > 0 {
			return 1 / float64(i+1)
		}
	}
	return 0
}

// Recall is the share of all relevant documents that are among the first k of a ranking, from 0 to 1. ranked
// must not have an id twice. A document is relevant if its gain is above 0. The result is 0 if nothing is
// relevant.
func Recall(ranked []string, relevant map[string]float64, k int) float64 {
	found, all := 0, 0
	for _, gain := range relevant {
		if gain > 0 {
			all++
		}
	}
	for _, id := range ranked[:max(0, min(k, len(ranked)))] {
		if relevant[id] > 0 {
			found++
		}
	}
	return float64(found) / float64(max(1, all))
}
