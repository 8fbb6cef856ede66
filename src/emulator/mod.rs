//! Stand-ins for what no cluster of one's own has: Microsoft Entra ID.
