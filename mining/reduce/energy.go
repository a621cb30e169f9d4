package reduce

// Energy is how far some vectors x are from the mean μ of the sample that a reducer was fitted on, and how much of
// that its axes A capture. Over the sample itself, Share is that of the last axis in Reducer.Share: both are ratios of
// the same sums. So the two can be compared, and what other vectors lose in addition is what the axes do not know.
type Energy struct {
	Vectors  float64 // how many; a fraction once they are weighted
	Total    float64 // Σ |x − μ|²
	Captured float64 // Σ |A(x − μ)|²
}

// Add adds what was measured of other vectors.
func (e *Energy) Add(other Energy) {
	e.Vectors += other.Vectors
	e.Total += other.Total
	e.Captured += other.Captured
}

// Decay gives all that was measured so far a smaller weight.
func (e *Energy) Decay(weight float64) {
	e.Vectors *= weight
	e.Total *= weight
	e.Captured *= weight
}

// Share is the part of the energy that is captured: 1 where there is none.
func (e *Energy) Share() float64 {
	if e.Total <= 0 {
		return 1
	}
	return min(1, e.Captured/e.Total)
}

// measure adds a vector x and its projection Ax, given the mean and its projection. Numbers that are not finite have no
// part in it.
func (e *Energy) measure(x, mean, projected, projectedMean []float32) {
	total, captured := squaredDistance(x, mean), squaredDistance(projected, projectedMean)
	if total-total != 0 || captured-captured != 0 {
		return
	}
	e.Vectors++
	e.Total += total
	e.Captured += captured
}

// squaredDistance is |a − b|², summed in float64.
func squaredDistance(a, b []float32) float64 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float64
	for len(a) >= 4 && len(b) >= 4 {
		d0, d1, d2, d3 := float64(a[0])-float64(b[0]), float64(a[1])-float64(b[1]), float64(a[2])-float64(b[2]), float64(a[3])-float64(b[3])
		s0 += d0 * d0
		s1 += d1 * d1
		s2 += d2 * d2
		s3 += d3 * d3
		a, b = a[4:], b[4:]
	}
	for i, v := range a {
		d := float64(v) - float64(b[i])
		s0 += d * d
	}
	return (s0 + s1) + (s2 + s3)
}
