"""Answers to the questions of the Croissant RAI vocabulary, from the tables of a release."""

from tumoratlas.release.facts import ReleaseFacts


def responsible_fields(facts: ReleaseFacts) -> dict[str, str | list[str]]:
    """Return the properties of the RAI vocabulary 1.0, without their prefix.

    Numbers come from the released tables; the rest describes what the pipeline does.
    """
    tables = facts.tables
    decided = [row for row in tables["reviews"] if row["role"] != "source"]
    reviewers = len({row["reviewer_id"] for row in decided})
    tools = sorted({row["tool"] for row in decided if row.get("tool")})
    states = [mask["state"] for mask in tables["masks"]]
    known = len(states) - states.count("unknown")
    fields: dict[str, str | list[str]] = {
        "dataCollection": (
            f"CT scans of {len(facts.sources)} collections as their owners give them (tables "
            "sources and crosswalk). Copies are found on voxels and kept once (table relations)."
        ),
        "dataCollectionType": ["Secondary Data Analysis", "Manual Human Curator"],
        "dataCollectionMissingData": (
            "A missing mask means that nobody looked, never that there is nothing: the table masks "
            f"knows {known} of {len(states)} organs. What was left out is in the table excluded."
        ),
        "dataCollectionRawData": (
            "The files of the sources; the table crosswalk has their hashes and those of voxels."
        ),
        "dataPreprocessingProtocol": [
            "Scans: orientation RAS+, int16 Hounsfield units, native spacing, not clipped.",
            "Headers are written anew; repairs are in the table repairs, before and after.",
        ],
        "dataAnnotationProtocol": [
            "Labels of the sources are taken over with their origin.",
            "Models propose candidates at a threshold chosen for sensitivity; a senior "
            "radiologist accepts or rejects each, juniors edit, a senior signs.",
            "Every decision is a line of an append-only ledger (table reviews).",
        ],
        "dataAnnotationAnalysis": [
            "An organ on which readers disagree stays unknown until a senior settles it."
        ],
        "annotationsPerItem": (
            f"{len(decided)} decisions by {reviewers} reviewers; one state per case and organ."
        ),
        "annotatorDemographics": ["Roles and pseudonyms only (table reviews)."],
        "machineAnnotationTools": ["nnU-Net v2; models and weights by hash in models.csv"],
        "dataBiases": [
            "Sources chose their patients by disease, so that tumors are more frequent than in "
            "any clinic, and each annotated its own organs only.",
            "Candidates come from models trained on the same sources; what these miss and no "
            "source marked is missing.",
        ],
        "dataUseCases": [
            "Training and validation of tumor segmentation and detection by the table splits.",
            "Not for diagnosis. Groups placed as reserved touch public test sets: never train "
            "on them.",
        ],
        "dataLimitations": [
            "An unknown organ is no negative: ignore it (value 7 of tumor_labels).",
            "No table tells histology; benign and malignant tumors are one class.",
            "Known defects are in KNOWN_ISSUES.csv.",
        ],
        "dataSocialImpact": (
            "Early tumors are found by few models; wrong masks may teach a model to miss them. "
            "Check a model per organ, size, sex, age and scanner before it meets a patient."
        ),
        "personalSensitiveInformation": [
            "Sex and age as the sources give them; no names, dates or identifiers, and no header "
            "of a source. Scans show bodies: do not try to identify anybody."
        ],
        "dataReleaseMaintenancePlan": (
            "Case ids are never used again; withdrawn.csv, KNOWN_ISSUES.csv and CHANGELOG.md tell "
            "what changed, and every version has its own checksums."
        ),
    }
    return fields | ({"dataAnnotationPlatform": tools} if tools else {})
