package records

// Headers of the records that hardneg writes into the triplets topic.
const (
	HeaderSchema     = "hardneg-schema"     // version of the value's schema
	HeaderGeneration = "hardneg-generation" // the generation that mined it
	HeaderSource     = "hardneg-source"     // topic/partition/offset of the record that caused it
	HeaderReason     = "hardneg-reason"     // on a null: why the slot is empty
)
