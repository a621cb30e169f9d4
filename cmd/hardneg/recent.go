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

// recent is what a service says of the documents that it embedded recently.
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

// metricsPatience is how long a service may take to tell its metrics.
const metricsPatience = 5 * time.Second

// readRecent asks a service at its /metrics.
func readRecent(ctx context.Context, address, id string) (*recent, error) {
	ctx, cancel := context.WithTimeout(ctx, metricsPatience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("no service answers at %s", address)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", address, response.Status)
	}
	parser := expfmt.NewTextParser(prom.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		return nil, fmt.Errorf("%s answers with no metrics: %w", address, err)
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

// metricOf finds the metric of a model; nil if there is none.
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
