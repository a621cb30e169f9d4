package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	prom "github.com/prometheus/common/model"

	"hardneg/internal/model"
	"hardneg/internal/telemetry"
)

// recent says how well a model fits the documents that a service embedded recently.
type recent struct {
	Service   string  `json:"service"`   // HTTP address
	Documents int64   `json:"documents"` // embedded since it started
	Share     float64 `json:"captured_share"`
	Drifted   bool    `json:"drifted"` // notably more is lost than of those held out when the model was fitted
}

func (r *recent) String() string {
	verdict := "as was to be expected"
	switch {
	case r.Documents < model.DriftMinimum:
		verdict = fmt.Sprintf("too few to say more: it takes %d", model.DriftMinimum)
	case r.Drifted:
		verdict = "DRIFTED: notably more is lost than of those held out"
	}
	return fmt.Sprintf("%.3f captured of recent documents, %d embedded by the service at %s; %s", r.Share, r.Documents, r.Service, verdict)
}

// httpPatience is how long a service may take to answer over HTTP.
const httpPatience = 5 * time.Second

// ask sends a request to the HTTP server of a service, and lets read take the answer.
func ask(ctx context.Context, address, path string, read func(*http.Response) error) error {
	ctx, cancel := context.WithTimeout(ctx, httpPatience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("no service answers at %s", address)
	}
	defer response.Body.Close()
	return read(response)
}

// readRecent asks a service at its /metrics.
func readRecent(ctx context.Context, address, id string) (*recent, error) {
	var families map[string]*dto.MetricFamily
	err := ask(ctx, address, "/metrics", func(response *http.Response) (err error) {
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", address, response.Status)
		}
		parser := expfmt.NewTextParser(prom.UTF8Validation)
		if families, err = parser.TextToMetricFamilies(response.Body); err != nil {
			return fmt.Errorf("%s answers with no metrics: %w", address, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	of := func(name, what string) *dto.Metric { return metricOf(families[name], id, what) }
	documents := of(telemetry.MeasuredDocumentsName, "")
	if documents == nil {
		return nil, fmt.Errorf("the service at %s does not embed by this model", address)
	}
	share := of(telemetry.CapturedShareName, telemetry.OfRecent)
	if share == nil {
		return nil, fmt.Errorf("the service at %s has not embedded a document since it started", address)
	}
	return &recent{
		Service: address, Documents: int64(documents.GetCounter().GetValue()), Share: share.GetGauge().GetValue(),
		Drifted: of(telemetry.DriftedName, "").GetGauge().GetValue() > 0,
	}, nil
}

// metricOf finds the metric of a model. It returns nil if there is none.
func metricOf(family *dto.MetricFamily, id, what string) *dto.Metric {
	for _, metric := range family.GetMetric() {
		labels := map[string]string{}
		for _, label := range metric.GetLabel() {
			labels[label.GetName()] = label.GetValue()
		}
		if labels["model"] == id && labels["what"] == what {
			return metric
		}
	}
	return nil
}
