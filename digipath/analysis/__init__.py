"""From heatmaps to findings: features and classes of metastases, tumour burden, sections, lymphocytes. No networks."""
