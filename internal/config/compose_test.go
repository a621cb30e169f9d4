package config

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// compose loads docker-compose.yml like Docker Compose, but without this machine's environment.
func compose(t *testing.T) *types.Project {
	t.Helper()
	const file = "../../docker-compose.yml"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  "../..",
		ConfigFiles: []types.ConfigFile{{Filename: file, Content: text}},
		Environment: types.Mapping{},
	})
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestCompose(t *testing.T) {
	project := compose(t)
	if names := project.ServiceNames(); !slices.Equal(names, []string{"hardneg", "kafka", "qdrant"}) {
		t.Fatalf("services %v", names)
	}
	pinned := regexp.MustCompile(`^[a-z/]+:v?[0-9]+\.[0-9]+\.[0-9]+$`)
	for name, service := range project.Services {
		if service.HealthCheck == nil || len(service.HealthCheck.Test) < 2 || service.HealthCheck.Disable {
			t.Errorf("%s has no health check", name)
		}
		if name != "hardneg" && !pinned.MatchString(service.Image) {
			t.Errorf("%s: the image %q has no full version", name, service.Image)
		}
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to the network", name, port.Published)
			}
		}
	}
	hardneg := project.Services["hardneg"]
	for _, dependency := range []string{"kafka", "qdrant"} {
		if got := hardneg.DependsOn[dependency].Condition; got != types.ServiceConditionHealthy {
			t.Errorf("hardneg waits for %s to be %q", dependency, got)
		}
	}
	if hardneg.Build == nil {
		t.Fatal("hardneg is not built")
	}
	if _, err := os.Stat("../../" + hardneg.Build.Dockerfile); err != nil {
		t.Error(err)
	}
}

// TestComposeEnvironment: the variables that the file sets are keys of the configuration, with legal values.
func TestComposeEnvironment(t *testing.T) {
	known := map[string]bool{}
	eachSettable(Fields(), func(f Field) { known[f.Env()] = true })
	var environ []string
	for name, value := range compose(t).Services["hardneg"].Environment {
		if !known[name] {
			t.Errorf("%s is no key of the configuration", name)
		}
		environ = append(environ, name+"="+*value)
	}
	c, err := Load(Options{Env: environ})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CheckAddresses(); err != nil {
		t.Error(err)
	}
}

// TestDockerfile: the image runs as an unprivileged user, and its base images have a version.
func TestDockerfile(t *testing.T) {
	text, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	user := ""
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		switch {
		case len(words) < 2:
		case words[0] == "FROM" && !regexp.MustCompile(`:[0-9]+\.[0-9]+`).MatchString(words[1]):
			t.Errorf("%s has no version", words[1])
		case words[0] == "USER":
			user = words[1]
		}
	}
	if user == "" || strings.HasPrefix(user, "0") || strings.HasPrefix(user, "root") {
		t.Errorf("the image runs as %q", user)
	}
}
