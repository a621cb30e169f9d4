package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics holds everything that a process reports to Prometheus. `/metrics` describes each metric. The label
// stage is indexer, intake or miner.
type Metrics struct {
	Records         *prometheus.CounterVec   // stage: input records of committed batches
	Outputs         *prometheus.CounterVec   // stage: output records of committed batches
	DeadLetters     *prometheus.CounterVec   // stage
	Batches         *prometheus.CounterVec   // stage: committed batches
	BatchSeconds    *prometheus.HistogramVec // stage: from the first record of a batch to its commit
	Lag             *prometheus.GaugeVec     // stage, partition: records between the committed offset and the end
	Failures        *prometheus.CounterVec   // stage: attempts that failed and are repeated
	StageUp         *prometheus.GaugeVec     // stage: 1 while it runs, 0 while it waits
	Stalled         *prometheus.GaugeVec     // stage: partitions whose batch makes no progress although it waits for no server
	EmbeddedTexts   *prometheus.CounterVec   // kind: passage, query
	CacheLookups    *prometheus.CounterVec   // result: hit, miss
	CacheBytes      prometheus.Gauge         // size of the cache of vectors on disk
	CacheEvictions  prometheus.Counter       // vectors that were removed to make room
	Triplets        *prometheus.CounterVec   // kind: written, retracted
	MinedQueries    prometheus.Counter
	ConfirmRounds   prometheus.Histogram   // reads until the stored state of a batch's queries was confirmed
	AffectedQueries *prometheus.CounterVec // how: watch, entry
	SweptQueries    *prometheus.CounterVec // why: fingerprint, age, retention
	SweepSeconds    prometheus.Gauge       // duration of the last complete sweep
	SweepCompleted  prometheus.Gauge       // when that sweep ended, Unix seconds
	SweepSkipped    prometheus.Counter     // queries left out for now, because the miner was behind on their partition

	CapturedShare     *prometheus.GaugeVec   // model; what: OfSample, OfHeldOut, OfRecent
	MeasuredDocuments *prometheus.CounterVec // model: documents measured for OfRecent, where older ones weigh less
	Drifted           *prometheus.GaugeVec   // model: 1 if recent documents lose notably more than held-out documents

	// For embedders whose vectors come from a server.
	EmbedderRequests *prometheus.CounterVec   // embedder, outcome
	EmbedderRetries  *prometheus.CounterVec   // embedder: requests that repeat a failed one
	EmbedderTexts    *prometheus.CounterVec   // embedder: texts that got vectors
	EmbedderSeconds  *prometheus.HistogramVec // embedder: of one request
	EmbedderLimit    *prometheus.GaugeVec     // embedder: requests that may run at the same time
}

// Names of metrics that commands read, and values of the label what.
const (
	CapturedShareName     = "hardneg_model_captured_share"
	MeasuredDocumentsName = "hardneg_model_measured_documents_total"
	DriftedName           = "hardneg_model_drifted"

	OfSample  = "sample"
	OfHeldOut = "held_out"
	OfRecent  = "recent"
)

// NewMetrics makes the metrics and registers them. It panics if one of the names is taken, which is a mistake
// in the program.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		Records:     counter("hardneg_records_total", "Input records of committed batches.", "stage"),
		Outputs:     counter("hardneg_outputs_total", "Output records of committed batches.", "stage"),
		DeadLetters: counter("hardneg_dead_letters_total", "Records that could not be processed and went to the dead letters.", "stage"),
		Batches:     counter("hardneg_batches_total", "Committed batches, one Kafka transaction each.", "stage"),
		BatchSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "hardneg_batch_seconds",
			Help:    "Seconds from taking up a batch to its commit.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}, []string{"stage"}),
		Lag:           gauge("hardneg_lag", "Records between the committed offset and the end of the partition.", "stage", "partition"),
		Failures:      counter("hardneg_failures_total", "Attempts that failed and are tried again.", "stage"),
		StageUp:       gauge("hardneg_stage_up", "1 while the stage runs, 0 while it waits for a dependency.", "stage"),
		Stalled:       gauge("hardneg_stalled_partitions", "Partitions whose batch makes no progress, with no server that it waits for.", "stage"),
		EmbeddedTexts: counter("hardneg_embedded_texts_total", "Texts that were embedded.", "kind"),
		CacheLookups:  counter("hardneg_cache_lookups_total", "Vectors that were looked for in the cache, by outcome.", "result"),
		CacheBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hardneg_cache_bytes", Help: "Bytes of the cache of vectors on disk."}),
		CacheEvictions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hardneg_cache_evictions_total", Help: "Vectors that this process took out of the cache to make room."}),
		Triplets: counter("hardneg_triplets_total", "Triplet records that were published: written, or retracted.", "kind"),
		MinedQueries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hardneg_mined_queries_total", Help: "Queries whose lists were computed and confirmed."}),
		ConfirmRounds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "hardneg_confirm_rounds",
			Help:    "Reads until what was stored was confirmed: 1 where nothing changed.",
			Buckets: []float64{1, 2, 3, 4, 5},
		}),
		AffectedQueries: counter("hardneg_affected_queries_total", "Queries found affected by a document, by its watch list or its entry intervals.", "how"),
		SweptQueries:    counter("hardneg_swept_queries_total", "Queries that the sweep sent to be mined again or forgotten.", "why"),
		SweepSeconds: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hardneg_sweep_seconds", Help: "Seconds that the last complete sweep of all queries took: no list is out of date for longer, unless its partition of refresh is behind."}),
		SweepCompleted: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hardneg_sweep_completed_timestamp_seconds", Help: "When the last complete sweep ended; 0: none has yet, in this instance."}),
		SweepSkipped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hardneg_sweep_skipped_total", Help: "Queries that the sweep left out for now, because the miner was behind on their partition."}),

		EmbedderRequests: counter("hardneg_embedder_requests_total", "Requests to an embedder's server, by how they went.", "embedder", "outcome"),
		EmbedderRetries:  counter("hardneg_embedder_retries_total", "Requests to an embedder's server that repeat one that failed.", "embedder"),
		EmbedderTexts:    counter("hardneg_embedder_texts_total", "Texts that came back as vectors from an embedder's server.", "embedder"),
		EmbedderSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "hardneg_embedder_request_seconds",
			Help:    "Seconds that requests to an embedder's server took.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2, 16),
		}, []string{"embedder"}),
		EmbedderLimit: gauge("hardneg_embedder_concurrency_limit", "Requests to an embedder's server that may be under way at a time.", "embedder"),
	}
	m.CapturedShare = gauge(CapturedShareName, "Share of the variance that the model's axes capture: of the sample that they were fitted on, "+
		"of documents that were held out then, and of documents that were embedded recently.", "model", "what")
	m.MeasuredDocuments = counter(MeasuredDocumentsName, "Documents that were embedded, and measured for the captured share.", "model")
	m.Drifted = gauge(DriftedName, "1 while recent documents lose notably more of their variance than those held out when the model was fitted.", "model")
	registerer.MustRegister(m.CapturedShare, m.MeasuredDocuments, m.Drifted)
	registerer.MustRegister(m.Records, m.Outputs, m.DeadLetters, m.Batches, m.BatchSeconds, m.Lag, m.Failures,
		m.StageUp, m.Stalled, m.EmbeddedTexts, m.CacheLookups, m.CacheBytes, m.CacheEvictions, m.Triplets, m.MinedQueries, m.ConfirmRounds, m.AffectedQueries, m.SweptQueries, m.SweepSeconds, m.SweepCompleted, m.SweepSkipped,
		m.EmbedderRequests, m.EmbedderRetries, m.EmbedderTexts, m.EmbedderSeconds, m.EmbedderLimit)
	// Create the labelled series at start, so that a rate over a counter's first step is right.
	for _, kind := range []string{"passage", "query"} {
		m.EmbeddedTexts.WithLabelValues(kind)
	}
	for _, result := range []string{"hit", "miss"} {
		m.CacheLookups.WithLabelValues(result)
	}
	for _, kind := range []string{"written", "retracted"} {
		m.Triplets.WithLabelValues(kind)
	}
	for _, how := range []string{"watch", "entry"} {
		m.AffectedQueries.WithLabelValues(how)
	}
	for _, why := range []string{"fingerprint", "age", "retention"} {
		m.SweptQueries.WithLabelValues(why)
	}
	return m
}
