"""Prints until when its token for Key Vault is valid."""

import datetime

from azure.identity import DefaultAzureCredential

token = DefaultAzureCredential().get_token("https://vault.azure.net/.default")
print("valid until", datetime.datetime.fromtimestamp(token.expires_on, datetime.timezone.utc))
