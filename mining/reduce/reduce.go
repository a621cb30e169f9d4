// Package reduce makes vectors shorter: it finds the principal axes of a sample of vectors, and projects
// vectors on these axes (PCA). Meghwani et al., "Hard Negative Mining for Domain-Specific Retrieval in
// Enterprise Systems" (ACL 2025 Industry, arXiv 2505.18366), section "Methodology", reduce the joined vectors
// of several embedders in this way and keep 95 % of the variance.
//
// The package is meant to be imported. It is pure: it uses no clock, no network and no storage. A sample with more
// vectors than dimensions keeps only their covariance, and nothing as large as the sample is ever in float64.
//
// The flow:
//
//  1. Put the vectors of a sample of documents into the rows of a [Matrix], and call [Fit]. If the sample is
//     too large for memory, make a [Sample], call [Sample.Add] for each block of rows, and then [Sample.Fit].
//  2. [Options] say how much of the variance the axes must capture, and how many there may be.
//  3. [Reducer.Project] makes vectors shorter, those of documents and of queries alike.
//  4. Save the reducer by [Reducer.MarshalBinary]. Vectors of different reducers cannot be compared.
//  5. [Reducer.ProjectMeasured] also says how much of the vectors' variance the axes capture. If it gets less
//     over time, the new documents are of another kind than the sample, and a new fit will tell them apart
//     better.
package reduce
