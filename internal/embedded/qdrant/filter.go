package qdrant

import (
	"slices"

	pb "github.com/qdrant/go-client/qdrant"
)

// predicate reports whether the point in a slot matches.
type predicate func(slot uint32) bool

// filter is a compiled pb.Filter over a view.
type filter struct {
	match predicate // nil matches every point
	// within, if not nil, contains every match: it is the smallest set that an index gave for a required
	// condition.
	within bitset
}

// compile turns a filter into a predicate. Conditions on indexed fields never read a payload.
func (v *view) compile(f *pb.Filter) (filter, error) {
	if f == nil {
		return filter{}, nil
	}
	var out filter
	fewest := 0
	must, err := v.compileAll(f.GetMust(), func(set bitset) {
		if n := set.count(); out.within == nil || n < fewest {
			out.within, fewest = set, n
		}
	})
	if err != nil {
		return out, err
	}
	mustNot, err := v.compileAll(f.GetMustNot(), nil)
	if err != nil {
		return out, err
	}
	should, err := v.compileAll(f.GetShould(), nil)
	if err != nil {
		return out, err
	}
	minShould, err := v.compileAll(f.GetMinShould().GetConditions(), nil)
	if err != nil {
		return out, err
	}
	minCount := int(f.GetMinShould().GetMinCount())
	out.match = func(slot uint32) bool {
		for _, p := range must {
			if !p(slot) {
				return false
			}
		}
		for _, p := range mustNot {
			if p(slot) {
				return false
			}
		}
		matches := func(p predicate) bool { return p(slot) }
		if len(should) > 0 && !slices.ContainsFunc(should, matches) {
			return false
		}
		if f.MinShould == nil {
			return true
		}
		n := 0
		for _, p := range minShould {
			if p(slot) {
				n++
			}
		}
		return n >= minCount
	}
	return out, nil
}

func (v *view) compileAll(conditions []*pb.Condition, found func(bitset)) ([]predicate, error) {
	out := make([]predicate, len(conditions))
	for i, condition := range conditions {
		p, set, err := v.condition(condition)
		if err != nil {
			return nil, err
		}
		out[i] = p
		if set != nil && found != nil {
			found(set)
		}
	}
	return out, nil
}

// condition compiles one condition. If set is not nil, it contains exactly the matches.
func (v *view) condition(condition *pb.Condition) (p predicate, set bitset, err error) {
	switch option := condition.GetConditionOneOf().(type) {
	case *pb.Condition_Field:
		return v.field(option.Field)
	case *pb.Condition_HasId:
		set = newBitset(len(v.ids))
		for _, id := range option.HasId.GetHasId() {
			key, err := parseID(id)
			if err != nil {
				return nil, nil, err
			}
			if slot, ok := v.slots[key]; ok {
				set.set(slot)
			}
		}
		return set.has, set, nil
	case *pb.Condition_Filter:
		inner, err := v.compile(option.Filter)
		if err == nil && inner.match == nil {
			inner.match = func(uint32) bool { return true }
		}
		return inner.match, nil, err
	case *pb.Condition_IsEmpty:
		p, err = v.onPayload(option.IsEmpty.GetKey(), isEmpty)
		return p, nil, err
	case *pb.Condition_IsNull:
		p, err = v.onPayload(option.IsNull.GetKey(), isNull)
		return p, nil, err
	case nil:
		return nil, nil, wrongInput("a filter condition without content")
	}
	return nil, nil, unimplemented("the filter condition %T", condition.GetConditionOneOf())
}

func isEmpty(values []*pb.Value) bool { return !slices.ContainsFunc(values, notNull) }
func isNull(values []*pb.Value) bool {
	return slices.ContainsFunc(values, func(v *pb.Value) bool { return !notNull(v) })
}

func notNull(v *pb.Value) bool {
	switch v.GetKind().(type) {
	case nil, *pb.Value_NullValue:
		return false
	}
	return true
}

// field compiles a condition on a payload field.
func (v *view) field(f *pb.FieldCondition) (predicate, bitset, error) {
	switch {
	case f.GetGeoBoundingBox() != nil, f.GetGeoRadius() != nil, f.GetGeoPolygon() != nil:
		return nil, nil, unimplemented("geographic conditions (on %q)", f.GetKey())
	case f.GetValuesCount() != nil:
		return nil, nil, unimplemented("values_count conditions (on %q)", f.GetKey())
	case f.GetDatetimeRange() != nil:
		return nil, nil, unimplemented("datetime_range conditions (on %q)", f.GetKey())
	}
	var parts []predicate
	var set bitset
	add := func(p predicate, err error) error {
		parts = append(parts, p)
		return err
	}
	var err error
	if f.GetMatch() != nil {
		var p predicate
		p, set, err = v.matching(f.GetKey(), f.GetMatch())
		err = add(p, err)
	}
	if err == nil && f.GetRange() != nil {
		err = add(v.inRange(f.GetKey(), f.GetRange()))
	}
	if err == nil && f.IsEmpty != nil {
		err = add(v.onPayload(f.GetKey(), func(values []*pb.Value) bool { return isEmpty(values) == f.GetIsEmpty() }))
	}
	if err == nil && f.IsNull != nil {
		err = add(v.onPayload(f.GetKey(), func(values []*pb.Value) bool { return isNull(values) == f.GetIsNull() }))
	}
	switch {
	case err != nil:
		return nil, nil, err
	case len(parts) == 0:
		return nil, nil, wrongInput("the condition on %q has no content", f.GetKey())
	case len(parts) == 1:
		return parts[0], set, nil
	}
	return func(slot uint32) bool {
		return !slices.ContainsFunc(parts, func(p predicate) bool { return !p(slot) })
	}, nil, nil
}

func (v *view) matching(key string, match *pb.Match) (predicate, bitset, error) {
	var p predicate
	var err error
	switch option := match.GetMatchValue().(type) {
	case *pb.Match_Keyword:
		return v.keywords(key, []string{option.Keyword})
	case *pb.Match_Keywords:
		return v.keywords(key, option.Keywords.GetStrings())
	case *pb.Match_ExceptKeywords:
		except := option.ExceptKeywords.GetStrings()
		p, err = v.onPayload(key, anyValue(func(value *pb.Value) bool {
			s, ok := value.GetKind().(*pb.Value_StringValue)
			return notNull(value) && !(ok && slices.Contains(except, s.StringValue))
		}))
	case *pb.Match_Integer:
		p, err = v.integers(key, func(i int64) bool { return i == option.Integer })
	case *pb.Match_Integers:
		p, err = v.integers(key, func(i int64) bool { return slices.Contains(option.Integers.GetIntegers(), i) })
	case *pb.Match_ExceptIntegers:
		except := option.ExceptIntegers.GetIntegers()
		p, err = v.onPayload(key, anyValue(func(value *pb.Value) bool {
			i, ok := integerOf(value)
			return notNull(value) && !(ok && slices.Contains(except, i))
		}))
	case *pb.Match_Boolean:
		want, _ := boolOf(pb.NewValueBool(option.Boolean))
		p, err = v.values(key, boolOf, func(i int64) bool { return i == want })
	default:
		err = unimplemented("the match %T (on %q)", option, key)
	}
	return p, nil, err
}

func anyValue(accept func(*pb.Value) bool) func([]*pb.Value) bool {
	return func(values []*pb.Value) bool { return slices.ContainsFunc(values, accept) }
}

func (v *view) keywords(key string, words []string) (predicate, bitset, error) {
	if index, ok := v.indexes[key].(*keywordIndex); ok {
		set := index.any(words, len(v.ids))
		return set.has, set, nil
	}
	wordSet := make(map[string]bool, len(words))
	for _, word := range words {
		wordSet[word] = true
	}
	p, err := v.onPayload(key, anyValue(func(value *pb.Value) bool {
		s, ok := value.GetKind().(*pb.Value_StringValue)
		return ok && wordSet[s.StringValue]
	}))
	return p, nil, err
}

func (v *view) integers(key string, accept func(int64) bool) (predicate, error) {
	return v.values(key, integerOf, accept)
}

// values compiles a condition on integers or booleans. It uses the column if there is one of the same type.
func (v *view) values(key string, read func(*pb.Value) (int64, bool), accept func(int64) bool) (predicate, error) {
	kind := v.info.GetPayloadSchema()[key].GetDataType()
	_, isBool := read(pb.NewValueBool(true))
	if index, ok := v.indexes[key].(*column); ok && isBool == (kind == pb.PayloadSchemaType_Bool) {
		return func(slot uint32) bool { return index.any(slot, accept) }, nil
	}
	return v.onPayload(key, anyValue(func(value *pb.Value) bool {
		i, ok := read(value)
		return ok && accept(i)
	}))
}

// inRange compares in float64, as Qdrant does.
func (v *view) inRange(key string, r *pb.Range) (predicate, error) {
	within := func(f float64) bool {
		return (r.Lt == nil || f < *r.Lt) && (r.Lte == nil || f <= *r.Lte) && (r.Gt == nil || f > *r.Gt) && (r.Gte == nil || f >= *r.Gte)
	}
	if index, ok := v.indexes[key].(*column); ok && v.info.GetPayloadSchema()[key].GetDataType() == pb.PayloadSchemaType_Integer {
		return func(slot uint32) bool { return index.any(slot, func(i int64) bool { return within(float64(i)) }) }, nil
	}
	return v.onPayload(key, anyValue(func(value *pb.Value) bool {
		if i, ok := integerOf(value); ok {
			return within(float64(i))
		}
		_, ok := value.GetKind().(*pb.Value_DoubleValue)
		return ok && within(value.GetDoubleValue())
	}))
}

// onPayload reads the payload of every point that it checks. This is correct but slow.
func (v *view) onPayload(key string, accept func([]*pb.Value) bool) (predicate, error) {
	if err := checkPath(key); err != nil {
		return nil, err
	}
	return func(slot uint32) bool {
		r, err := v.record(slot)
		var values []*pb.Value
		if err == nil {
			values, err = r.payload(v.dimensions).values(key)
		}
		if err != nil && v.err == nil {
			v.err = err
		}
		return err == nil && accept(values)
	}, nil
}

// selected returns the live points that match a filter.
func (v *view) selected(f filter) bitset {
	if f.match == nil {
		return v.live
	}
	set := newBitset(len(v.ids))
	from := v.live
	if f.within != nil {
		from = f.within
	}
	from.each(func(slot uint32) {
		if v.live.has(slot) && f.match(slot) {
			set.set(slot)
		}
	})
	return set
}
