package reduce

// Energy measures how much of some vectors x the axes A of a reducer capture. μ is the mean of the sample
// that the reducer was fitted on. For the vectors of the sample, Share equals the last element of
// Reducer.Share: both are ratios of the same sums. So the two can be compared: if other vectors have a lower
// share, they have directions that the axes lack.
type Energy struct {
	Vectors  float64 // number of vectors; Decay can make it a fraction
	Total    float64 // Σ |x − μ|²
	Captured float64 // Σ |A(x − μ)|²
}

// Add adds the energy of other vectors.
func (e *Energy) Add(other Energy) {
	e.Vectors += other.Vectors
	e.Total += other.Total
	e.Captured += other.Captured
}

// Decay multiplies all three sums by a weight, usually below 1, so that earlier vectors count less than later
// ones.
func (e *Energy) Decay(weight float64) {
	e.Vectors *= weight
	e.Total *= weight
	e.Captured *= weight
}

// Share is the part of the energy that the axes capture, from 0 to 1. It is 1 if there is no energy.
func (e *Energy) Share() float64 {
	if e.Total <= 0 {
		return 1
	}
	return min(1, e.Captured/e.Total)
}

// measure adds a vector x with its projection Ax. It also needs the mean and the mean's projection. A vector
// that is not finite is left out.
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
