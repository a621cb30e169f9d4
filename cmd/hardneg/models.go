package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"hardneg/internal/catalog"

	"github.com/spf13/cobra"
)

func (c *command) modelsCommand() *cobra.Command {
	return group("models", "Look at the models that were published", c.modelsListCommand(), c.modelsShowCommand(), c.modelsRemoveCommand())
}

func (c *command) modelsListCommand() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the models, and what uses them",
		Long: `List the models of the models topic in the order of their publication, each checked against its checksum. States:
  live    the live collections were made by it
  held    another generation has it
  unused  nothing depends on it
  broken  it is not complete, or damaged, and cannot be used
A live or held one that has a problem as well can not be read any more: hardneg run will not start.`,
		Args: arguments(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.onModels(cmd.Context(), t, func(_ catalog.Conn, _ catalog.Models, listed []catalog.ListedModel) error {
			return c.print(listed, func(w io.Writer) error { return printModels(w, listed) })
		})
	}
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

func (c *command) modelsShowCommand() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show a model, and what it loses of the documents of today",
		Long: `Show a model: its embedders, how much of the variance its first axes capture, and, of a service that runs by it, how much
they capture of the documents that it embedded recently. The beginning of an id will do where it is the only one.

A service is found by --data-dir, by --http, or by http.address; each instance knows of the documents alone that it has
embedded since it started.`,
		Example: "  hardneg models show 3f9a --data-dir ./data",
		Args:    arguments("ID"),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.onModels(cmd.Context(), t, func(on catalog.Conn, _ catalog.Models, listed []catalog.ListedModel) error {
			m, err := only(listed, args[0])
			if err != nil {
				return err
			}
			shown := shownModel{ListedModel: m}
			if m.Manifest != nil && len(m.Manifest.Variance) > 0 {
				shown.Recent, err = readRecent(cmd.Context(), on.Config.HTTP.Address, m.ID)
				if err != nil {
					shown.NotRecent = err.Error()
				}
			}
			return c.print(shown, shown.print)
		})
	}
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

func (c *command) modelsRemoveCommand() *cobra.Command {
	var t target
	var yes bool
	cmd := &cobra.Command{
		Use:   "remove ID",
		Short: "Remove a model that nothing uses",
		Long: `Remove a model from the models topic. One that a generation has, live, kept, or in the making, is refused: hardneg status says
which there are. The beginning of an id will do where it is the only one. Without --yes it says what it would remove.`,
		Example: "  hardneg models remove 3f9a --data-dir ./data --yes",
		Args:    arguments("ID"),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.onModels(cmd.Context(), t, func(_ catalog.Conn, models catalog.Models, listed []catalog.ListedModel) error {
			m, err := only(listed, args[0])
			if err != nil {
				return err
			}
			if !yes {
				_, err := fmt.Fprintf(c.stdout, "model %s is %s; with --yes it would be removed, where nothing uses it\n", m.ID, m.State)
				return err
			}
			if err := models.Remove(cmd.Context(), m); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.stdout, "model %s is removed\n", m.ID)
			return err
		})
	}
	t.flags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "remove it")
	return cmd
}

// shownModel is a model, and how well it fits the documents that a service embedded recently.
type shownModel struct {
	catalog.ListedModel
	Recent    *recent `json:"recent,omitempty"`
	NotRecent string  `json:"recent_unknown,omitempty"` // why Recent is missing
}

// onModels is onService for commands that begin with a list of the models.
func (c *command) onModels(ctx context.Context, t target, f func(catalog.Conn, catalog.Models, []catalog.ListedModel) error) error {
	return c.onService(ctx, t, func(on catalog.Conn) error {
		models := on.Models(nil)
		listed, err := models.List(ctx, on.Index)
		if err != nil {
			return err
		}
		return f(on, models, listed)
	})
}

// only finds a model by its id, or by the beginning of its id if no other model's id begins so.
func only(listed []catalog.ListedModel, id string) (catalog.ListedModel, error) {
	var ids []string
	var found catalog.ListedModel
	for _, m := range listed {
		if strings.HasPrefix(m.ID, id) {
			ids, found = append(ids, m.ID), m
		}
	}
	slices.Sort(ids)
	switch len(ids) {
	case 0:
		return found, fmt.Errorf("no model begins with %q: hardneg models list shows all", id)
	case 1:
		return found, nil
	}
	return found, usage("%q is the beginning of %s", id, strings.Join(ids, " and of "))
}

func printModels(w io.Writer, listed []catalog.ListedModel) error {
	table := newTable(w)
	fmt.Fprintln(table, "MODEL\tSTATE\tCREATED\tDIMENSIONS\tSAMPLES\tCAPTURED\tHELD OUT\tBYTES\tEMBEDDERS")
	for _, m := range listed {
		cells := []string{m.ID, m.State, "-", "-", "-", "-", "-", "-", brief(m.Problem)}
		if i := m.Manifest; i != nil {
			names := make([]string, len(i.Embedders))
			for e, part := range i.Embedders {
				names[e] = part.Name
			}
			captured, heldOut := "-", "-"
			if len(i.Variance) > 0 {
				captured = fmt.Sprintf("%.3f", capturedShare(*i))
			}
			if i.HeldOut != nil {
				heldOut = fmt.Sprintf("%.3f", i.HeldOut.Share)
			}
			cells = []string{m.ID, m.State, i.CreatedAt.Format(time.RFC3339), fmt.Sprint(i.Dimensions), fmt.Sprint(i.Samples), captured, heldOut,
				fmt.Sprint(i.Bytes), brief(strings.Join(names, ", "))}
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	return table.Flush()
}

func (m shownModel) print(w io.Writer) error {
	rows := [][2]string{{"model", m.ID}, {"state", m.State}}
	if len(m.Generations) > 0 {
		rows = append(rows, [2]string{"generations", strings.Join(m.Generations, ", ")})
	}
	if m.Problem != "" {
		rows = append(rows, [2]string{"problem", m.Problem})
	}
	if m.Manifest == nil {
		return printRows(w, rows)
	}
	rows = append(rows, describe(*m.Manifest)...)
	if m.Recent != nil {
		rows = append(rows, [2]string{"recent", m.Recent.String()})
	} else if m.NotRecent != "" {
		rows = append(rows, [2]string{"recent", "unknown: " + m.NotRecent})
	}
	if err := printRows(w, rows); err != nil {
		return err
	}
	return printParts(w, *m.Manifest)
}
