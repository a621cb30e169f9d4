package mining

import (
	"cmp"
	"math"
	"slices"
)

// NDCG is the normalised discounted cumulative gain of a ranking at cut-off k, with linear gain, as BEIR and
// trec_eval (ndcg_cut) compute it: Σ rel(i)/log2(i+1) over ranks i from 1 to k, divided by the same sum over the ideal
// ranking of all relevant documents. Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques"
// (TOIS 2002), with Burges's discount. Ids that are not in relevant count 0; an id ranked twice counts once. The
// result is 0 if nothing is relevant.
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

// ReciprocalRank is 1/r for the first relevant document of a ranking at rank r up to the cut-off k, and 0 where there is none;
// its mean over queries is MRR@k. Voorhees, "The TREC-8 Question Answering Track Report" (TREC 1999).
func ReciprocalRank(ranked []string, relevant map[string]float64, k int) float64 {
	for i, id := range ranked[:min(k, len(ranked))] {
		if relevant[id] > 0 {
			return 1 / float64(i+1)
		}
	}
	return 0
}

// Recall is the share of the relevant documents that are among the first k of a ranking, which names each once. It is 0 if
// nothing is relevant.
func Recall(ranked []string, relevant map[string]float64, k int) float64 {
	found, all := 0, 0
	for _, gain := range relevant {
		if gain > 0 {
			all++
		}
	}
	for _, id := range ranked[:min(k, len(ranked))] {
		if relevant[id] > 0 {
			found++
		}
	}
	return float64(found) / float64(max(1, all))
}
