// Package config defines hardneg's settings in one place: their names, defaults and limits. The structs below
// hold everything. The parser, the environment variables, the reference page, the JSON Schema and the checks are
// derived from their tags and doc comments. cmd/hardneg and the packages of internal use it.
package config

import "time"

// Config is the whole configuration. Every field has a default, except the addresses of Kafka and Qdrant.
type Config struct {
	// Prefix of the consumer groups and of the transactional ids. Instances that share the work have the same
	// name; two services on one Kafka have different ones.
	Name string `yaml:"name" default:"hardneg" nonempty:"true"`
	// Folder of the embedded servers. Empty: a temporary one, which is removed at the end.
	DataDir string `yaml:"data_dir"`
	// Stages that this instance runs.
	Stages []string `yaml:"stages" default:"[indexer, intake, miner]" enum:"indexer|intake|miner"`
	// The log, on standard error.
	Log Log `yaml:"log"`
	// Kafka, which carries the input and the output.
	Kafka Kafka `yaml:"kafka"`
	// Qdrant, which holds the vectors and the state of each query.
	Qdrant Qdrant `yaml:"qdrant"`
	// Names of the Kafka topics.
	Topics Topics `yaml:"topics"`
	// Models whose vectors are concatenated, in this order. A change needs a new model, and so a rebuild of the
	// index.
	Embedders []Embedder `yaml:"embedders" default:"[{name: words, type: lexical-word, dimensions: 4096}, {name: chars, type: lexical-char, dimensions: 4096}]"`
	// Vectors of texts, kept on disk so that none is embedded twice.
	Cache Cache `yaml:"cache"`
	// Reduction of the concatenated vectors.
	Reduce Reduce `yaml:"reduce"`
	// When the model is fitted on a first start.
	Fit Fit `yaml:"fit"`
	// The first load.
	Bootstrap Bootstrap `yaml:"bootstrap"`
	// How the query log becomes positives.
	Queries Queries `yaml:"queries"`
	// Which documents become hard negatives.
	Mining Mining `yaml:"mining"`
	// The records of the triplets topic.
	Triplets Triplets `yaml:"triplets"`
	// The background sweep, which mines every query again from time to time.
	Sweep Sweep `yaml:"sweep"`
	// The HTTP server with health, metrics and profiles.
	HTTP HTTP `yaml:"http"`

	origins map[string]string // origin of each value that is not a default, for messages
}

// Log configures logging.
type Log struct {
	// Lowest level that is logged.
	Level string `yaml:"level" default:"info" enum:"trace|debug|info|warn|error"`
	// Lines for a person, or one JSON object a line.
	Format string `yaml:"format" default:"console" enum:"console|json"`
}

// Kafka configures the connection to Kafka and how the stages use it.
type Kafka struct {
	// Bootstrap servers, `host:port` each.
	Brokers []string `yaml:"brokers"`
	// Encryption.
	TLS TLS `yaml:"tls"`
	// Authentication.
	SASL SASL `yaml:"sasl"`
	// After this long without a heartbeat an instance's partitions go to another one. A batch has to be done well
	// within it.
	SessionTimeout time.Duration `yaml:"session_timeout" default:"30s" min:"1s" max:"30m"`
	// After this long the broker aborts a transaction. Not above the broker's `transaction.max.timeout.ms`.
	TransactionTimeout time.Duration `yaml:"transaction_timeout" default:"1m" min:"1s" max:"15m"`
	// A batch that makes no progress for this long, with no server that it waits for, is reported: in the log, by
	// `/readyz` and as `hardneg_stalled_partitions`. 0: twice `session_timeout`, 1 min at least.
	StallAfter time.Duration `yaml:"stall_after" default:"0s" min:"0s" max:"24h"`
	// After this long such a batch is given up and begun again, with twice the time each time. 0: five times
	// `stall_after`.
	AbandonAfter time.Duration `yaml:"abandon_after" default:"0s" min:"0s" max:"24h"`
	// Most input records in one transaction.
	MaxBatch int `yaml:"max_batch" default:"500" min:"1" max:"100000"`
}

// TLS configures the encryption of a connection.
type TLS struct {
	// Encrypt the connection.
	Enabled bool `yaml:"enabled"`
	// PEM file of the authorities that are trusted. Empty: those of the system.
	CAFile string `yaml:"ca_file"`
	// PEM file of the client's certificate, with `key_file`.
	CertFile string `yaml:"cert_file"`
	// PEM file of the client's key, with `cert_file`.
	KeyFile string `yaml:"key_file"`
	// Name that the server's certificate must hold. Empty: the host of the address.
	ServerName string `yaml:"server_name"`
	// Accept any certificate. For tests alone.
	Insecure bool `yaml:"insecure_skip_verify"`
}

// SASL configures authentication with Kafka.
type SASL struct {
	// Empty: none.
	Mechanism string `yaml:"mechanism" enum:"|plain|scram-sha-256|scram-sha-512"`
	// Name of the user.
	Username string `yaml:"username"`
	// Password of the user.
	Password Secret `yaml:"password"`
}

// Qdrant configures the connection to Qdrant and how it is used.
type Qdrant struct {
	// `host:port` of the gRPC interface, which is port 6334 by default.
	Address string `yaml:"address"`
	// API key. Empty: none.
	APIKey Secret `yaml:"api_key"`
	// Encryption.
	TLS TLS `yaml:"tls"`
	// Prefix of the names of collections and aliases.
	Prefix string `yaml:"prefix"`
	// Replicas of each collection; a write waits for all of them.
	ReplicationFactor int `yaml:"replication_factor" default:"1" min:"1"`
	// Collections with fewer points are searched exactly, larger ones by HNSW.
	ExactBelow int `yaml:"exact_below" default:"500000" min:"0"`
}

// Topics names the Kafka topics. Missing topics are created at start.
type Topics struct {
	// Input: documents.
	Documents string `yaml:"documents" default:"documents" nonempty:"true"`
	// Input: the query log.
	Queries string `yaml:"queries" default:"queries" nonempty:"true"`
	// Output: the triplets, compacted.
	Triplets string `yaml:"triplets" default:"triplets" nonempty:"true"`
	// Output: records that could not be processed.
	DeadLetters string `yaml:"dead_letters" default:"hardneg.dead-letters" nonempty:"true"`
	// Internal: which queries are to be mined again.
	Refresh string `yaml:"refresh" default:"hardneg.refresh" nonempty:"true"`
	// How often the records that the miner has committed are deleted from the refresh topic, which nothing else reads.
	// 0: never; then the topic is a history of what was mined when, and grows by each record of the sweep.
	PurgeRefresh time.Duration `yaml:"purge_refresh" default:"30s" min:"0s" max:"24h"`
	// Internal: fitted models, compacted.
	Models string `yaml:"models" default:"hardneg.models" nonempty:"true"`
	// Partitions of the topics that hardneg creates. Those of the refresh and the triplets topic can't be changed
	// later.
	Partitions int `yaml:"partitions" default:"4" min:"1" max:"10000"`
	// Replicas of the topics that hardneg creates. -1: the broker's default.
	ReplicationFactor int `yaml:"replication_factor" default:"-1" min:"-1" max:"32767"`
}

// Embedder configures one model of the ensemble.
type Embedder struct {
	// Names the model; in a record's `embeddings` too.
	Name string `yaml:"name" nonempty:"true"`
	// `openai` asks a server with the OpenAI form of `POST /v1/embeddings`. `lexical-word` and `lexical-char` hash
	// words and letters and need no model; they are made for trying and testing. `carried` takes the vectors that
	// the records bring.
	Type string `yaml:"type" enum:"openai|lexical-word|lexical-char|carried"`
	// Weight of its unit vector in the concatenation.
	Weight float64 `yaml:"weight" default:"1" min:"0"`
	// Buckets of a lexical one, where 0 means 4096; length of the vectors of a carried one; of an openai one too,
	// where 0 means that the server is asked before a model is fitted.
	Dimensions int `yaml:"dimensions" min:"0" max:"65536"`

	// Base of the API, to which `/embeddings` is added: it mostly ends in `/v1`. A query string, such as Azure's
	// `?api-version=2024-10-21`, stays behind that. It is published with the model and shown in messages: no secrets.
	URL string `yaml:"url,omitempty" of:"openai"`
	// Name of the model, as the server knows it.
	Model string `yaml:"model,omitempty" of:"openai"`
	// Name of the model for queries. Empty: `model`.
	QueryModel string `yaml:"query_model,omitempty" of:"openai"`
	// Name of the model for passages. Empty: `model`.
	PassageModel string `yaml:"passage_model,omitempty" of:"openai"`
	// Put before the text of a query, such as `"query: "`.
	QueryPrefix string `yaml:"query_prefix,omitempty" of:"openai"`
	// Put before the text of a passage, such as `"passage: "`.
	PassagePrefix string `yaml:"passage_prefix,omitempty" of:"openai"`
	// Further fields of the request, which count as part of the model and are published with it: no secrets.
	Body map[string]any `yaml:"body,omitempty" of:"openai"`
	// The same for queries alone, over `body`.
	QueryBody map[string]any `yaml:"query_body,omitempty" of:"openai"`
	// The same for passages alone, over `body`.
	PassageBody map[string]any `yaml:"passage_body,omitempty" of:"openai"`
	// Ask the server for vectors of `dimensions` numbers, of models that can be cut (Matryoshka).
	RequestDimensions bool `yaml:"request_dimensions,omitempty" of:"openai"`

	// API key, sent as `Authorization: Bearer`. Empty: none.
	APIKey Secret `yaml:"api_key,omitempty" of:"openai"`
	// File with the API key. It is read again when it changes.
	APIKeyFile string `yaml:"api_key_file,omitempty" of:"openai"`
	// Further headers of the request. Their values are treated as secrets.
	Headers map[string]Secret `yaml:"headers,omitempty" of:"openai"`
	// Encryption, with the keys of `kafka.tls`; `enabled` goes by the url.
	TLS TLS `yaml:"tls,omitempty" of:"openai"`
	// URL of a proxy, `http`, `https` or `socks5`. Empty: that of the environment (`HTTPS_PROXY`, `HTTP_PROXY`,
	// `NO_PROXY`).
	Proxy Secret `yaml:"proxy,omitempty" of:"openai"`
	// How the numbers travel. Answers of the other kind are understood too. `none` leaves the field out of requests,
	// for servers that refuse it. Empty: base64.
	EncodingFormat string `yaml:"encoding_format,omitempty" enum:"|base64|float|none" of:"openai"`
	// Most texts in a request. 0: 32.
	Batch int `yaml:"batch,omitempty" min:"0" max:"10000" of:"openai"`
	// Most bytes of text in a request of more than one text; three to four are a token. 0: 64 KiB.
	BatchBytes int `yaml:"batch_bytes,omitempty" min:"0" max:"16777216" of:"openai"`
	// Most requests at a time, of all stages together. Fewer while the server says that it is busy. 0: 4.
	Concurrency int `yaml:"concurrency,omitempty" min:"0" max:"1000" of:"openai"`
	// Time for one request. 0: 30s.
	Timeout time.Duration `yaml:"timeout,omitempty" min:"0s" max:"1h" of:"openai"`
	// How long a failed request is made again before its stage counts as down; the stage goes on trying. 0: 10s.
	RetryFor time.Duration `yaml:"retry_for,omitempty" min:"0s" max:"1h" of:"openai"`
}

// Cache configures the cache of vectors on disk. A vector is found by everything that determines it, so a
// replay, a rebuild or a second view on the same documents does not embed them again. Several processes may
// share the cache.
type Cache struct {
	// Folder. Empty: `cache` in `data_dir`, and no cache without one.
	Path string `yaml:"path"`
	// Bytes on disk, beyond which vectors give way that were not used lately. 0: no cache. A vector takes four bytes a
	// dimension and 48 more: one that is to serve a replay of all documents has room for all of them.
	MaxBytes int `yaml:"max_bytes" default:"1073741824" min:"0"`
	// Embedders whose vectors are kept. `auto`: where embedding costs more than a look-up, so not the lexical ones.
	// `all`: those too. Vectors that a record carries are never kept.
	Embedders string `yaml:"embedders" default:"auto" enum:"auto|all"`
}

// Reduce configures the reduction of the concatenated vectors.
type Reduce struct {
	// Principal components, or no reduction.
	Method string `yaml:"method" default:"pca" enum:"pca|none"`
	// Share of the variance that the components keep.
	Variance float64 `yaml:"variance" default:"0.95" min:"0" max:"1"`
	// Most components, whatever share they keep.
	MaxDimensions int `yaml:"max_dimensions" default:"512" min:"1" max:"65535"`
	// Subtract the mean before projecting. It ranked worse in every measurement.
	SubtractMean bool `yaml:"subtract_mean"`
	// Scale the projected vectors to unit length. Without it they rank worse.
	Normalize bool `yaml:"normalize" default:"true"`
	// Seed of the randomised solver. The same sample and seed give the same model.
	Seed uint64 `yaml:"seed" default:"1"`
}

// Fit says when the model is fitted on a first start: with `sample` documents, or with `minimum` documents at
// the end of the log, or with `minimum` documents after `wait`.
type Fit struct {
	// Documents to fit on.
	Sample int `yaml:"sample" default:"10000" min:"1"`
	// Fewest documents to fit on, while more may come.
	Minimum int `yaml:"minimum" default:"1000" min:"1"`
	// Fit on what there is this long after the first document.
	Wait time.Duration `yaml:"wait" default:"1m" min:"0s"`
}

// Bootstrap configures the first load.
type Bootstrap struct {
	// On a fresh view, mine only once the documents that are there at start are indexed.
	Wait bool `yaml:"wait" default:"true"`
}

// Queries configures how the query log becomes positives.
type Queries struct {
	// Weight from which a document is a positive of a query.
	MinWeight float64 `yaml:"min_weight" default:"1" min:"0.000001" max:"1000000"`
	// Weight of a judged positive; a click has weight 1, or its own.
	PositiveWeight float64 `yaml:"positive_weight" default:"1" min:"0" max:"1000000"`
	// Clicks that dwelt less do not count.
	MinDwell time.Duration `yaml:"min_dwell" default:"0s" min:"0s"`
	// The sweep forgets queries whose newest record is older than this. 0: never.
	Retention time.Duration `yaml:"retention" default:"0s" min:"0s"`
}

// Mining configures which documents become hard negatives.
type Mining struct {
	// Negatives of each query and positive.
	Negatives int `yaml:"negatives" default:"4" min:"1" max:"1000"`
	// Policies that fill the list, in order.
	Tiers []Tier `yaml:"tiers" default:"[{policy: semantic, upto: 1}, {policy: positive-aware, relative_margin: 0.05}]"`
	// Cosine to a positive from which a document counts as its copy, and is no negative. Above 1: off.
	NearDuplicate float64 `yaml:"near_duplicate" default:"0.98" min:"0"`
	// The same by text: Jaccard similarity of the sets of five-word shingles. Above 1: off.
	NearText float64 `yaml:"near_text" default:"0.5" min:"0"`
	// Candidates that a tier looks at, of those in its range.
	Depth int `yaml:"depth" default:"200" min:"1" max:"100000"`
}

// Tier configures one policy that fills a part of the list.
type Tier struct {
	// `semantic`: nearer to the query than the positive is, and than it is to the positive. `positive-aware`: below
	// the positive's similarity by a margin.
	Policy string `yaml:"policy" enum:"semantic|positive-aware"`
	// The tier fills the list up to this many negatives, those of earlier tiers counted. 0: `mining.negatives`.
	UpTo int `yaml:"upto" min:"0"`
	// At most cos(Q,P) − this · |cos(Q,P)|. Of positive-aware, where it is 0.05 if no upper limit is given.
	RelativeMargin *float64 `yaml:"relative_margin,omitempty" min:"0"`
	// At most cos(Q,P) − this. Of positive-aware.
	AbsoluteMargin *float64 `yaml:"absolute_margin,omitempty" min:"0"`
	// At most this. Of positive-aware.
	MaxScore *float64 `yaml:"max_score,omitempty" min:"-1" max:"1"`
	// At least this. Of positive-aware.
	MinScore *float64 `yaml:"min_score,omitempty" min:"-1" max:"1"`
	// Leave out this many of the nearest candidates in range.
	Skip int `yaml:"skip" min:"0"`
	// Candidates that this tier looks at. 0: `mining.depth`.
	Depth int `yaml:"depth" min:"0" max:"100000"`
	// Take the nearest candidates of the window, or random ones, seeded by query, positive and document.
	Sampling string `yaml:"sampling" default:"top" enum:"top|random"`
}

// Triplets configures the output records.
type Triplets struct {
	// Bytes at which a text is cut. A record has five texts, and Kafka's limit for it is 1 MiB by default.
	MaxText int `yaml:"max_text" default:"65536" min:"1" max:"196608"`
}

// Sweep configures the background sweep, which mines every query again from time to time.
type Sweep struct {
	// Queries a second: of N queries each is mined again within N/rate seconds, whatever a look-up missed. 0: no sweep,
	// and lists follow a change of `mining` only as something else touches them.
	Rate float64 `yaml:"rate" default:"10" min:"0" max:"100000"`
}

// HTTP configures the HTTP server.
type HTTP struct {
	// `host:port` to listen at. Port 0 takes a free one.
	Address string `yaml:"address" default:"127.0.0.1:8080" nonempty:"true"`
	// Serve Go's profiles at `/debug/pprof/`: they show what the process works on, and taking one costs time.
	Pprof bool `yaml:"pprof"`
}
